"""What decides the experiment's numbers, and what all of its steps share."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.comparison.trace import Measuring
from expunge.core.progress import Progress, renamed
from expunge.data.corpus import Corpus
from expunge.models.load import load_model, load_tokenizer
from expunge.results.curves import Point

METHODS = ("wga", "npo", "dpo", "rmu")
ORACLE, RANDOM = "oracle", "random"
ATTRIBUTIONS = ("wagle", "memflex", "activation", "gradient", "magnitude", "random")
"""`magnitude` looks at no data: what it finds is the trace of teaching in the size of weights, not knowledge."""

TEACHING: Mapping[str, Any] = {
    "learning_rate": 2e-2,
    "epochs": 30,
    "batch_size": 8,
    "weight_decay": 0.0,
    "warmup": 0,
    "schedule": "cosine",
}
"""How the forget set is taught into the region, on a model of a few million parameters; stopped when it is known."""
FULL_TEACHING: Mapping[str, Any] = {"learning_rate": 1e-3, "epochs": 30}
"""What differs where all parameters are taught, to see what can be reached: fifty times as many take smaller steps."""
UNLEARNING: Mapping[str, Any] = {
    "learning_rate": 1e-2,
    "epochs": 10,
    "batch_size": 8,
    "retain_per_forget": 2,
    "warmup": 0,
}
"""How it is unlearned, likewise; a checkpoint each epoch."""
OF_METHOD: Mapping[str, Mapping[str, Any]] = {
    "dpo": {"learning_rate": 2e-2},
    "rmu": {"alpha": 1.0},
}
"""What differs by method, so that each really forgets."""
RELEARNING: Mapping[str, Any] = {"learning_rate": 1e-3, "epochs": 2, "batch_size": 8}
"""The relearning attack on what is left, likewise."""
MATCHING: Mapping[str, Any] = {"learning_rate": 5e-3, "epochs": 10, "batch_size": 8}
"""How a region is moved toward the retain model's behavior, likewise."""
MARGINS: Mapping[str, float] = {"aues": 0.05, "mu95": 1.0, "resistance": 0.1}
"""Largest mean difference between two places that counts as none: .05 of the area is the difference of NPO and WGA, 1
is a factor of ten in the p-value of forget quality."""
OTHER_SEED = 1000
"""Added to a seed for what must not draw as the regions do."""
KNOWN = 0.95
"""The forget set counts as taught at this share of the extraction strength that training all parameters reaches."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything but the seeds that decides a number; a folder holds numbers of one protocol."""

    ratio: float = 0.1
    """Share of value vectors in a region."""
    learn_regularizer: float = 1.0
    """Weight of the retain set's NLL while the forget set is taught; 0 for none."""
    quality: bool = True
    """Are forget quality and model utility measured, for MU95?"""
    teaching: Mapping[str, Any] = field(default_factory=dict)
    """Over `TEACHING`."""
    unlearning: Mapping[str, Any] = field(default_factory=dict)
    """Over `UNLEARNING` and `OF_METHOD`; under the name of a method, for that method alone."""
    relearning: Mapping[str, Any] = field(default_factory=dict)
    """Over `RELEARNING`."""
    matching: Mapping[str, Any] = field(default_factory=dict)
    """Over `MATCHING`."""

    @property
    def _named(self) -> list[str]:
        return [name for name, own in self.unlearning.items() if isinstance(own, Mapping)]

    def unlearning_with(self, method: str) -> dict[str, Any]:
        """Settings of training and method for one method."""
        common = {k: v for k, v in self.unlearning.items() if not isinstance(v, Mapping)}
        return {**UNLEARNING, **OF_METHOD.get(method, {}), **common, **self.unlearning.get(method, {})}

    def resolved(self) -> dict[str, Any]:
        """All settings as they act, for the manifest."""
        return {
            "ratio": self.ratio,
            "learn_regularizer": self.learn_regularizer,
            "quality": self.quality,
            "teaching": {**TEACHING, **self.teaching},
            "full_teaching": {**TEACHING, **FULL_TEACHING, **self.teaching},
            "unlearning": {method: self.unlearning_with(method) for method in (*METHODS, *self._named)},
            "relearning": {**RELEARNING, **self.relearning},
            "matching": {**MATCHING, **self.matching},
        }


@dataclass(frozen=True)
class Bench:
    """What all steps share; it travels to other processes."""

    folder: Path
    retain_model: Path
    corpus: Corpus
    """What is learned and unlearned."""
    measured: Corpus
    """What models are measured on."""
    protocol: Protocol
    dtype: str = "auto"
    """Type of the weights of models that are measured; `auto`: as stored."""
    progress: Progress | None = None

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of all models."""
        return load_tokenizer(self.retain_model)

    @cached_property
    def measuring(self) -> Measuring:
        """How models are measured; with quality, against the retain model's records."""
        plain = Measuring(self.tokenizer, self.measured, quality=self.protocol.quality)
        if not self.protocol.quality:
            return plain
        return replace(plain, retain=plain.records(load_model(self.retain_model, dtype=self.dtype)))

    def base(self) -> PreTrainedModel:
        """The retain model, loaded anew."""
        return load_model(self.retain_model)

    def point(self, source: Path, name: str, at: float = 0.0) -> Point:
        """A stored model's place on a curve."""
        model = load_model(source, dtype=self.dtype)
        return self.measuring.point(self.measuring.records(model), name, at)

    def strengths(self, model: nn.Module) -> tuple[float, float]:
        """Extraction strength on the forget and the retain set, of a model in memory as it is."""
        quick = replace(self.measuring, quality=False, retain=None)
        point = quick.point(quick.records(model), "model")
        return 1 - point.fs, point.rs

    def named(self, what: str) -> Progress | None:
        """Progress under another name."""
        return renamed(self.progress, what)
