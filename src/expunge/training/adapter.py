"""Training through an adapter: settings, attaching, merging."""

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core import catalogue
from expunge.core.checks import ExpungeError, unknown
from expunge.data.corpus import Corpus
from expunge.masks.mask import Mask
from expunge.models.adapter_files import write_adapter
from expunge.models.load import holds_adapter_alone, save_model
from expunge.models.lowrank import Adapted, Save, check_peft, is_quantized, lora_layers, merged, taken_off
from expunge.models.matrices import (
    block_of,
    down_projections,
    linear_layers,
    parameter_count,
    shape_of,
    target_matrices,
    uncovered,
)
from expunge.objectives.combine import Objective

LEARNING_RATE = 1e-4
"""Default with an adapter, whatever the method's own is for full-parameter training."""

ADAPTER_FOLDER = "adapter"


@dataclass(frozen=True)
class Adaptation:
    """Which adapter was asked for."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its keyword arguments, defaults filled in."""
    targets: str | None = None
    save: Save = "merged"

    @property
    def wants_retain(self) -> bool:
        """Does it look at the retain set before training?"""
        return "retain" in catalogue.needs(catalogue.resolve("adapters", self.name))

    def arguments(self) -> dict[str, Any]:
        """For the manifest."""
        return {"adapter": self.name, "adapter_settings": dict(self.settings), "targets": self.targets}


def split_adapter_settings(
    adapter: str | None, targets: str | None, save: Save | None, given: Mapping[str, Any], *, own: bool = False
) -> tuple[Adaptation | None, dict[str, Any]]:
    """Settings that are no training settings to (the adapter with those it knows, the rest, for the method).

    Args:
        adapter: name of the adapter.
        targets: what it goes on.
        save: what is written of it.
        given: settings of the adapter, the method, and nobody.
        own: does the model bring an adapter of its own, which `save` is about then?

    Raises:
        ExpungeError: an unknown adapter, or settings of adapters without one.
    """
    if save not in (None, "merged", "adapter", "both"):
        raise unknown("way to save an adapter", str(save), ("merged", "adapter", "both"))
    if adapter is None and own:
        if targets is not None:
            raise ExpungeError(
                f"targets={targets}: the model's own adapter is trained, where it is. Leave targets out."
            )
        return None, dict(given)
    if adapter is None:
        for name, value in (("targets", targets), ("save", save)):
            if value is not None:
                raise ExpungeError(f"{name}={value} needs an adapter: adapter=lora.")
        return None, dict(given)
    known = catalogue.hyperparameters(catalogue.resolve("adapters", adapter))
    settings = known | {k: v for k, v in given.items() if k in known}
    rest = {k: v for k, v in given.items() if k not in known}
    return Adaptation(adapter, settings, targets, save or "merged"), rest


def adapted_matrices(
    model: nn.Module, objective: Objective, targets: str | None, mask: Mask | None = None
) -> tuple[str, ...]:
    """Names of the matrices that the adapter goes on.

    Args:
        model: the start model.
        objective: a method that trains a few matrices by default has these adapted by default.
        targets: what was asked for; None: the method's own matrices, else `all-linear`.
        mask: of whole matrices; only those selected are adapted.

    Raises:
        ExpungeError: targets that find nothing or are where no gradient comes, a mask inside matrices, or one that
            selects something else than these matrices while no targets were asked for.
    """
    own = objective.forget is not None and objective.forget.method.trains == "down_projections"
    if targets is None and own and objective.layer is not None:
        names = down_projections(model, objective.layer)
    else:
        names = target_matrices(model, targets or "all-linear")
        if targets in (None, "all-linear", "mlp"):
            _warn_of_uncovered(model)
    if objective.layer is not None and not _through_head(objective):
        beyond = [name for name in names if block_of(model, name) > objective.layer]
        if beyond:
            raise ExpungeError(
                f"targets={targets!r}: {len(beyond)} of the matrices ({beyond[0]}, ...) are above layer "
                f"{objective.layer}, whose hidden states are all that this objective reads, so they would never learn. "
                "Leave targets out for the method's own matrices, or name some with a regular expression."
            )
    if mask is None:
        return names
    if mask.layout.unit != "matrix":
        raise ExpungeError(
            f"a mask of unit={mask.layout.unit} does not go with an adapter: the product B A changes every entry of a "
            "matrix. Use a mask of unit=matrix, which says which matrices are adapted, or no adapter."
        )
    mask.check(model)
    chosen = {name.removesuffix(".weight") for name in mask.layout.parts if mask.indices(name).numel()}
    kept = tuple(name for name in names if name in chosen)
    if not kept:
        raise ExpungeError(
            f"the mask selects none of the {len(names)} matrices that targets={targets or 'all-linear'} names."
        )
    beyond = sorted(chosen - {*kept})
    if beyond and targets is None:
        raise ExpungeError(
            f"the mask selects {len(beyond)} parameters that the adapter is not attached to ({beyond[0]}, ...), so "
            "they would stay as they are. Name the targets to adapt only what is in both, such as targets=all-linear, "
            f"or select among those {len(names)} matrices alone."
        )
    return kept


def _warn_of_uncovered(model: nn.Module) -> None:
    share, example = uncovered(model)
    if example is not None:
        warnings.warn(
            f"{share:.1%} of the weights in the decoder blocks are outside linear layers ({example}, ...), as experts "
            "do: no adapter goes on them, and they stay as they are. Training without an adapter reaches them.",
            stacklevel=2,
        )


def _through_head(objective: Objective) -> bool:
    return any(names - {"hidden", "completion_mask", "counts"} for names in objective.needs("current").values())


def check_adaptable(model: nn.Module, adaptation: Adaptation | None, save: Save | None = None) -> None:
    """Raise where a model and an adapter, or its absence, do not go together.

    Args:
        model: the start model.
        adaptation: the adapter that was asked for.
        save: what is to be written of an adapter that the model brings; None: the adapter.
    """
    if isinstance(model, PeftModel):
        if adaptation is not None:
            raise ExpungeError(
                f"the model carries a PEFT adapter already, and adapter={adaptation.name} would be a second one. Leave "
                "adapter out to train its own, or merge it first: model.merge_and_unload()."
            )
        check_peft(model)
        if is_quantized(model) and save in ("merged", "both"):
            raise ExpungeError(
                f"save={save}: merged into a quantized model the adapter would be rounded away. Say save=adapter."
            )
        check_start(str(model.config._name_or_path), save or "adapter")
    elif getattr(model, "peft_config", None):
        raise ExpungeError(
            "the model carries adapters without PEFT's wrapper, so they cannot be separated from its own weights. Load "
            "them with peft.PeftModel.from_pretrained(base, folder, is_trainable=True), or merge them."
        )
    elif is_quantized(model):
        if adaptation is None:
            raise ExpungeError("quantized weights cannot be trained themselves. Train an adapter: adapter=lora.")
        if adaptation.save != "adapter":
            raise ExpungeError(
                f"save={adaptation.save}: merged into a quantized model the adapter would be rounded away. "
                "Say save=adapter."
            )
    if adaptation is not None:
        check_start(str(model.config._name_or_path), adaptation.save)  # type: ignore[union-attr]


def describe_own_adapter(model: PeftModel) -> dict[str, Any]:
    """What a manifest says of the adapter that a model brought: its size, and what it is on."""
    (config,) = model.peft_config.values()
    assert isinstance(config, LoraConfig)
    targets = config.target_modules
    return {
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "adapted_matrices": len(lora_layers(model)),
        "adapter": {
            "rank": config.r,
            "lora_alpha": config.lora_alpha,
            "targets": targets if isinstance(targets, str) else sorted(targets or ()),
        },
    }


def check_start(source: str, save: Save) -> None:
    """Raise where an adapter would be written that belongs on a model that is saved nowhere.

    Args:
        source: where the start model was loaded from, or will be.
        save: what is to be written of the adapter.
    """
    if save == "merged" or not source or not holds_adapter_alone(source):
        return
    raise ExpungeError(
        f"save={save}: '{source}' holds an adapter, which is merged into its start model when it is loaded, "
        "so another adapter would belong on weights that are saved nowhere. Say save=merged for a plain model, or "
        f"write the merged model first and start from that: "
        f"expunge.load_model('{source}').save_pretrained('<folder>'), with tokenizer={source}."
    )


def check_settings(model: nn.Module, adaptation: Adaptation, matrices: Sequence[str], corpus: Corpus) -> None:
    """Raise for settings that an adapter refuses, before anything is computed or written.

    An adapter's file says what it refuses in a function next to it, `CHECK`, which gets the settings that it names.

    Args:
        model: the start model, of which shapes alone are read.
        adaptation: which adapter.
        matrices: what is adapted.
        corpus: what training uses.
    """
    if adaptation.wants_retain and "retain" not in corpus:
        raise ExpungeError(
            f"adapter={adaptation.name} weighs the forget set against a retain set, and the corpus '{corpus.name}' "
            f"holds only {', '.join(corpus)}. Name one: retain=<file>, or use adapter=lora."
        )
    rows = {f"{split}_rows": len(corpus[split]) if split in corpus else 0 for split in ("forget", "retain")}
    _call_beside(adaptation, "CHECK", {"model": model, "matrices": matrices, **rows})


def check_rows(
    model: nn.Module, adaptation: Adaptation, matrices: Sequence[str], looked_at: Mapping[str, Any], seed: int
) -> None:
    """Raise for settings that do not fit the weights or the rows, before anything is written.

    An adapter's file checks them in a function `CHECK_ROWS`, likewise.

    Args:
        model: the start model.
        adaptation: which adapter.
        matrices: what is adapted.
        looked_at: the rows that it reads before training, by split.
        seed: of the run.
    """
    _call_beside(adaptation, "CHECK_ROWS", {"model": model, "matrices": matrices, "seed": seed, **looked_at})


def _call_beside(adaptation: Adaptation, name: str, has: Mapping[str, Any]) -> None:
    put_on = catalogue.resolve("adapters", adaptation.name)
    check = getattr(sys.modules[put_on.__module__], name, None)
    if check is None:
        return
    known = catalogue.hyperparameters(check)
    settings = {setting: value for setting, value in adaptation.settings.items() if setting in known}
    check(*(has[need] for need in catalogue.needs(check)), **settings)


def warn_of_size(model: nn.Module, adaptation: Adaptation, matrices: Sequence[str]) -> None:
    """Say where an adapter holds more numbers than the matrices it stands for: it then saves nothing."""
    rank, layers = adaptation.settings.get("rank"), linear_layers(model)
    if rank is None:
        return
    numbers, weights = parameter_count(model, matrices, rank), sum(math.prod(shape_of(layers[n])) for n in matrices)
    if numbers > weights:
        warnings.warn(
            f"rank={rank}: the adapter holds {numbers} numbers and the {len(matrices)} matrices that it stands for "
            f"only {weights}. Take a smaller rank, or train without an adapter.",
            stacklevel=2,
        )


@contextmanager
def adapter_on(
    model: PreTrainedModel,
    adaptation: Adaptation,
    matrices: tuple[str, ...],
    *,
    supplies: Mapping[str, Any],
) -> Iterator[Adapted]:
    """The model with its adapter; where anything fails, the adapter comes off and the start model is back.

    Args:
        model: changed in place meanwhile.
        adaptation: which adapter.
        matrices: what is adapted.
        supplies: what adapters may ask for by name: `forget`, `retain`, `seed`, `progress`, `rows_at_once`.
    """
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    put_on = catalogue.resolve("adapters", adaptation.name)
    has: dict[str, Any] = {"model": model, "matrices": matrices, **supplies}
    adapted = put_on(*(has[name] for name in catalogue.needs(put_on)), **adaptation.settings)
    done = False
    try:
        yield adapted
        done = True
    finally:
        if not done:
            taken_off(adapted.model)
        if not any(True for name, _ in model.named_parameters() if ".lora_" in name):
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(before[name])


Keep = Callable[[Any, Path | None], Any]
"""(trained model, run folder or None) to the model that the run returns, written into the folder."""


def result_writer(save: Save, tokenizer: PreTrainedTokenizerBase, about: Mapping[str, Any], *, own: bool) -> Keep:
    """How the result of a run is written and handed back.

    Args:
        save: what is written of the adapter.
        tokenizer: written next to it.
        about: what is said of an adapter besides its weights.
        own: was the model handed in with it? Then it stays on, unless it is to be merged.
    """

    def keep(model: PeftModel, folder: Path | None) -> Any:
        if folder is not None and save != "merged":
            written = write_adapter(model, folder / ADAPTER_FOLDER if save == "both" else folder, about)
            tokenizer.save_pretrained(written)
        if (own and save == "adapter") or is_quantized(model):
            return model
        plain = merged(model)
        if own:
            plain.requires_grad_(True)  # the adapter had frozen it, and is gone
        if folder is not None and save != "adapter":
            save_model(plain, tokenizer, folder)
        return plain

    return keep
