"""A start model whose knowledge of the forget set is in a known region, and the check that it does."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from expunge.attack.attacks.relearn import relearned
from expunge.experiments._folder import write
from expunge.experiments._locality.protocol import FULL_TEACHING, KNOWN, ORACLE, RANDOM, RELEARNING, TEACHING, Bench
from expunge.localize.localize import localize
from expunge.masks.mask import Mask
from expunge.models.fingerprint import model_fingerprint
from expunge.models.load import load_model
from expunge.training.unlearn import unlearn


@dataclass(frozen=True)
class Taught:
    """One start model: what it knows, and the reverse check that the knowledge is in its region."""

    seed: int
    strength: float
    """Extraction strength on the forget set after teaching."""
    full_strength: float
    """The same after training all parameters in the same way."""
    retain_strength: float
    """Extraction strength on the retain set after teaching; the retain model's is `retain_before`."""
    retain_before: float
    step: int
    """Step at which teaching stopped."""
    region_holds_it: bool
    """With the region put back to the retain model's weights, is the model the retain model bit for bit?"""
    outside_untouched: bool
    """With the random region put back likewise, is it unchanged bit for bit?"""
    never_knew: float
    """Extraction strength of the retain model on the forget set."""
    never_knew_relearned: float
    """The same after the relearning attack."""

    @classmethod
    def load(cls, path: Path) -> "Taught":
        """Read what `teach` wrote."""
        return cls(**json.loads(path.read_text()))


def regions(bench: Bench, seed: int) -> dict[str, Mask]:
    """The region that is taught, and an equally large random one outside it."""
    drawn = localize(bench.base(), bench.tokenizer, attribution="random", unit="value_vector", seed=seed)
    region = drawn.select(ratio=bench.protocol.ratio)
    return {ORACLE: region, RANDOM: region.complement(seed)}


def full_strength(bench: Bench) -> float:
    """Extraction strength on the forget set after teaching it to all parameters; made once a folder."""
    path = bench.folder / "full.json"
    if not path.is_file():
        model = bench.base()
        settings = {"checkpoint_every": 0, **TEACHING, **FULL_TEACHING, **bench.protocol.teaching}
        unlearn(model, bench.tokenizer, bench.corpus, method="learn", progress=bench.named("teach all"), **settings)
        write(path, bench.strengths(model)[0])
    return float(json.loads(path.read_text()))


def teach(bench: Bench, places: Mapping[str, Mask], full: float, seed: int, start: Path, told: Path) -> None:
    """The start model of a seed: that of the first epoch which knows enough of the forget set, else of the last.

    Args:
        bench: what all steps share.
        places: the region that is taught, and the random one for the reverse check.
        full: extraction strength that training all parameters reaches.
        seed: of the data order and the pairing.
        start: folder for the model.
        told: file for what is known about it, a `Taught`, written last.
    """
    told.unlink(missing_ok=True)
    weight = bench.protocol.learn_regularizer
    method = {"method": "learn_reg", "alpha": weight} if weight else {"method": "learn"}

    def known(model: nn.Module, _: int) -> str | None:
        return "the forget set is known" if bench.strengths(model)[0] >= KNOWN * full else None

    run = unlearn(
        bench.base(),
        bench.tokenizer,
        bench.corpus,
        mask=places[ORACLE],
        stop=known,
        seed=seed,
        progress=bench.named(f"seed {seed}: teach the region"),
        **{**method, **TEACHING, **bench.protocol.teaching},
    )
    strength, retained = bench.strengths(run.model)
    run.model.save_pretrained(start)
    bench.tokenizer.save_pretrained(start)
    base = bench.base()
    never_knew, before = bench.strengths(base)
    holds = model_fingerprint(put_back(load_model(start), base, places[ORACLE])) == model_fingerprint(base)
    model = load_model(start)
    as_taught = model_fingerprint(model)
    untouched = model_fingerprint(put_back(model, base, places[RANDOM])) == as_taught
    relearned = strength_relearned(bench, base, seed)
    steps = int(run.manifest.results["steps"])
    found = Taught(seed, strength, full, retained, before, steps, holds, untouched, never_knew, relearned)
    write(told, asdict(found))


def strength_relearned(bench: Bench, model: PreTrainedModel, seed: int) -> float:
    """Extraction strength on the forget set after the relearning attack, in the same order for every model."""
    settings = {**RELEARNING, **bench.protocol.relearning, "seed": seed}
    return bench.strengths(relearned(model, bench.tokenizer, bench.corpus["forget"], **settings))[0]


@torch.no_grad()
def put_back(model: PreTrainedModel, base: PreTrainedModel, mask: Mask) -> PreTrainedModel:
    """The model with what the mask selects as it is in `base`, in place."""
    theirs = dict(base.named_parameters())
    for name, parameter in model.named_parameters():
        if name in mask.layout.parts:
            parameter.copy_(torch.where(mask.dense(name), theirs[name], parameter))
    return model
