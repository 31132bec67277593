"""Interpolation: walk from the unlearned model back towards the start model, and see when the knowledge returns."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.budget import Budget, asked
from expunge.attack.measuring import Asker, restored
from expunge.core.checks import require_between
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.models.load import load_model, refuse_adapters
from expunge.results.attacked import Leak


def interpolate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    start: str,
    shares: Sequence[float] = (0.1, 0.25),
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
) -> list[Leak]:
    """What mixtures with the start model give of the forget set: an attacker who has the start model needs no other.

    Args:
        model: a causal language model without adapters; put back afterwards.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        start: folder or hub id of the model before unlearning.
        shares: shares of the start model in the mixture.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: a share outside [0, 1], adapters that are not merged, or models of unlike tensors.
    """
    for share in shares:
        require_between("shares", share, 0, 1)
    refuse_adapters(model)
    before = load_model(start, dtype="float32").state_dict()
    found = []
    for share in shares:
        asker = Asker(tokenizer, template, max_length, progress=under(progress, f"interpolate {share:g}"))
        with restored(model), torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.lerp(parameter.float(), before[name].to(parameter.device), share))
            found.append(asker.known(model, f"interpolate.{share:g}", corpus["forget"]))
    return found


def budget(corpus: Corpus, settings: Mapping[str, Any]) -> Budget:
    """All facts at every share."""
    return asked([f"interpolate.{share:g}" for share in settings["shares"]], len(corpus["forget"]))
