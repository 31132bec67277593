"""Where a parameter stands in a model, read from its name; and the fingerprint of a mask: where its weights are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expunge.masks.mask import Mask  # which needs torch, and drawings do not

KINDS = ("q", "k", "v", "qkv", "o", "gate", "up", "down", "norm", "embedding", "head", "other")
"""Kinds of parameters, in the order in which they are shown."""

OUTSIDE = -1
"""The layer of what is outside of the decoder blocks."""

_KINDS: Mapping[str, Sequence[str]] = {
    "q": ("q_proj",),
    "k": ("k_proj",),
    "v": ("v_proj",),
    "qkv": ("query_key_value", "c_attn", "qkv_proj", "Wqkv"),
    "o": ("o_proj", "out_proj"),
    "gate": ("gate_proj",),
    "up": ("up_proj", "gate_up_proj", "c_fc", "fc1", "dense_h_to_4h"),
    "down": ("down_proj", "fc2", "dense_4h_to_h"),
    "embedding": ("embed_tokens", "embed_in", "embed_positions", "wte", "wpe"),
    "head": ("lm_head", "embed_out"),
}
_OF_MODULE = {module: kind for kind, modules in _KINDS.items() for module in modules}


def layer_of(parameter: str) -> int:
    """The number of the decoder block in a parameter's name: the first that stands alone; else `OUTSIDE`."""
    return next((int(word) for word in parameter.split(".") if word.isdigit()), OUTSIDE)


def kind_of(parameter: str) -> str:
    """What a parameter does, out of `KINDS`; a bias counts to its layer."""
    words = parameter.split(".")
    if words[-1] in ("weight", "bias"):
        words = words[:-1]
    *around, module = words
    if module in _OF_MODULE:
        return _OF_MODULE[module]
    if "norm" in module or module.startswith("ln_"):
        return "norm"
    if module in ("c_proj", "dense"):
        return "o" if any("attn" in word or "attention" in word for word in around) else "down"
    return "other"


def plural(unit: str) -> str:
    """What several units are called: `value vectors`, `matrices`."""
    return "matrices" if unit == "matrix" else f"{unit.replace('_', ' ')}s"


@dataclass(frozen=True, kw_only=True)
class Place:
    """How much of one kind of parameter in one layer is selected."""

    layer: int
    kind: str
    selected: int
    """Weights."""
    weights: int

    @property
    def density(self) -> float:
        """Selected weights over all of them."""
        return self.selected / self.weights


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Where a mask is."""

    label: str
    unit: str
    units: int
    """How many units are selected."""
    share: float
    """Selected units over all."""
    places: tuple[Place, ...]
    """By layer, then by kind, of the parameters that the mask knows."""

    def by(self, what: str) -> dict[Any, float]:
        """Density by `layer` or by `kind`."""
        found: dict[Any, list[int]] = {}
        for place in self.places:
            sums = found.setdefault(getattr(place, what), [0, 0])
            sums[0] += place.selected
            sums[1] += place.weights
        order = {kind: i for i, kind in enumerate(KINDS)}
        keys = sorted(found, key=lambda key: order.get(key, key))
        return {key: found[key][0] / found[key][1] for key in keys}

    @property
    def gini(self) -> float:
        """Gini coefficient of the layers' densities: 0 where all are alike, near 1 where one layer holds all."""
        return gini([density for layer, density in self.by("layer").items() if layer != OUTSIDE])

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Fingerprint":
        """The one with these fields, as a manifest holds them."""
        return cls(**{**content, "places": tuple(Place(**place) for place in content["places"])})


def gini(values: Sequence[float]) -> float:
    """Gini coefficient: mean absolute difference of all pairs over twice the mean; 0 where all are 0.

    With x sorted upward: sum_i (n - i) * i * (x_i+1 - x_i) / (n * sum x).
    """
    total = sum(values)
    if not total:
        return 0.0
    n = len(values)
    steps = pairwise(sorted(values))
    return sum(i * (n - i) * (b - a) for i, (a, b) in enumerate(steps, start=1)) / (n * total)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How much two masks agree, next to what two random selections of their sizes would."""

    one: str
    other: str
    iou: float
    coefficient: float
    """Intersection over the smaller."""
    expected_iou: float
    """IoU at the expected intersection of random selections."""
    expected_coefficient: float


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """How well a mask finds a known region."""

    precision: float
    """Share of the mask that is in the region."""
    recall: float
    """Share of the region that the mask holds."""
    expected_precision: float
    """The same for a random selection of the mask's size."""
    expected_recall: float


def fingerprint(mask: "Mask", label: str = "mask") -> Fingerprint:
    """Where a mask is: selected weights by layer and by kind of parameter.

    Args:
        mask: the mask.
        label: what it is called in tables and drawings.
    """
    sizes, counts = mask.layout.groups, mask.counts()
    sums: dict[tuple[int, str], list[int]] = {}
    for name, part in mask.layout.parts.items():
        place = sums.setdefault((layer_of(name), kind_of(name)), [0, 0])
        place[0] += counts[part.group] * (part.numel // part.units)
        place[1] += part.numel
    return Fingerprint(
        label=label,
        unit=mask.layout.unit,
        units=sum(counts.values()),
        share=sum(counts.values()) / sum(sizes.values()),
        places=tuple(
            Place(layer=layer, kind=kind, selected=selected, weights=weights)
            for (layer, kind), (selected, weights) in sorted(sums.items())
        ),
    )
