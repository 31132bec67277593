"""A model without weights: its architecture, held against the headers of its weight files, of which nothing is read."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from expunge.models.load import adapter_base, check_model_folder, configuration, holds_adapter_alone, quiet, refused
from expunge.models.weight_files import headers, weight_files
from expunge.models.weights_fit import check_weights


def skeleton(source: str | Path, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model on the meta device, or that of an adapter's start model.

    Names and shapes in the headers of its weight files are checked as loading would check them. Not so for weights that
    are quantized in their files, and for those of the hub that are not downloaded yet.

    Raises:
        ExpungeError: no such model, a configuration that describes none, or weights that do not fit it.
    """
    check_model_folder(source)
    if holds_adapter_alone(source):
        return skeleton(adapter_base(source), trust_remote_code=trust_remote_code)
    config = configuration(source, trust_remote_code=trust_remote_code)
    with refused(f"cannot build the model '{source}'", source), torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    files = weight_files(source)
    if not files or getattr(config, "quantization_config", None) is not None:
        return model
    with refused(f"cannot build the model '{source}'", source), quiet():
        held, found = type(model).from_pretrained(
            None,
            config=config,
            state_dict=headers(files),
            device_map={"": "meta"},
            dtype="auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    check_weights(source, type(model).__name__, found)
    return held  # type: ignore[no-any-return]
