"""Which kind of attack an attack is, after paragraph 55 of EDPB Opinion 28/2024, and what an attacker needs for it."""

from typing import Literal, get_args

Class = Literal[
    "membership inference",
    "attribute inference",
    "exfiltration",
    "regurgitation",
    "model inversion",
    "reconstruction",
]
CLASSES: tuple[Class, ...] = get_args(Class)
UNKNOWN = "not classified"
"""Of attacks from outside."""

QUERIES = "queries"
PROBABILITIES = "queries that return probabilities"
WEIGHTS = "weights"
TRAINING = "weights, and data to train on"
START = "weights, and the start model"

_KNOWN: dict[str, tuple[Class, str]] = {
    "plain": ("regurgitation", QUERIES),
    "prompts": ("exfiltration", QUERIES),
    "sampling": ("exfiltration", QUERIES),
    "prefix_search": ("exfiltration", WEIGHTS),
    "quantize": ("reconstruction", WEIGHTS),
    "prune": ("reconstruction", WEIGHTS),
    "interpolate": ("reconstruction", START),
    "relearn": ("reconstruction", TRAINING),
    "siblings": ("reconstruction", TRAINING),
    "latent": ("reconstruction", WEIGHTS),
    "lens": ("model inversion", WEIGHTS),
    "depth": ("model inversion", START),
    "probe": ("attribute inference", WEIGHTS),
    "mia": ("membership inference", PROBABILITIES),
    "privleak": ("membership inference", PROBABILITIES),
}


def classified(name: str) -> tuple[str, str]:
    """Class and access of an attack, of one of its forms (`prompts.cloze`), or of a measure (`mia_min_k`)."""
    base = name.partition(".")[0]
    return _KNOWN.get("mia" if base.startswith("mia_") else base, (UNKNOWN, "not stated"))
