"""`match_retain`: the unlearning objective taken out of the question.

A place of the start model is moved toward what the retain model does on the forget set, in several places of one size:

    L = mean over blocks l and completion positions t of || MLP_l(x_t; theta) - MLP_l(x_t; retain) ||^2 / d

Each model runs on its own hidden states. If every place reaches the same end, the place does not matter.

Source: Lee et al. 2025, arXiv:2505.16252. Departures: data, scaling of the norm and budget are not published; here the
forget set, division by the width d, and `MATCHING`. Positions are those that predict a completion token.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from expunge.core.batch import Batch, collate
from expunge.core.logprobs import IGNORED
from expunge.data.tokenizing import encode
from expunge.experiments._folder import write
from expunge.experiments._locality.protocol import MATCHING, ORACLE, OTHER_SEED, RANDOM, Bench
from expunge.masks.mask import Mask
from expunge.models.anatomy import blocks, causal_lm, down_projection
from expunge.models.load import load_model
from expunge.training.masked import masked

DRAWS = ("a", "b", "c")
"""Random regions besides the one that holds the knowledge."""


@dataclass(frozen=True)
class Matched:
    """What moving one place toward the retain model came to."""

    place: str
    seed: int
    distance_before: float
    """The loss, mean over the forget set's positions."""
    distance: float
    """The same at the end."""
    forget_strength: float
    retain_strength: float
    utility: float | None
    log10_quality: float | None


def matching_places(places: Mapping[str, Mask], seed: int) -> dict[str, Mask]:
    """The region that holds the knowledge and three random ones outside it, of which the first is that of the cells."""
    region = places[ORACLE]
    draws = [places[RANDOM], *(region.complement(seed + number * OTHER_SEED) for number in (1, 2))]
    return {ORACLE: region, **{f"{RANDOM} {name}": mask for name, mask in zip(DRAWS, draws, strict=True)}}


def matched(bench: Bench, start: Path, places: Mapping[str, Mask], seed: int) -> list[Matched]:
    """Move each place toward the retain model, and measure where that ends.

    Args:
        bench: what all steps share.
        start: folder of the start model.
        places: what may change, by name.
        seed: of the data order.
    """
    base, found = bench.base(), []
    for place, mask in places.items():
        model = load_model(start)
        before, after = match(bench, model, base, mask, seed)
        model.save_pretrained(start.parent / "matched")
        point = bench.point(start.parent / "matched", place)
        found.append(Matched(place, seed, before, after, point.fs, point.rs, point.utility, point.log10_quality))
        if bench.progress is not None:
            bench.progress(f"seed {seed}: match the retain model", len(found), len(places), place)
    return found


def save_matched(found: list[Matched], path: Path) -> None:
    """Write as JSON."""
    write(path, [asdict(one) for one in found])


def load_matched(path: Path) -> list[Matched]:
    """Read what `save_matched` wrote."""
    return [Matched(**one) for one in json.loads(path.read_text())]


def match(bench: Bench, model: PreTrainedModel, base: PreTrainedModel, mask: Mask, seed: int) -> tuple[float, float]:
    """Train what the mask selects to do as `base` does; the loss over the forget set before and after.

    Args:
        bench: gives the rows and the settings.
        model: trained in place, with AdamW at a rate that falls linearly to 0.
        base: the retain model.
        mask: what may change.
        seed: of the order of rows.
    """
    settings = {**MATCHING, **bench.protocol.matching}
    rows, size = encode(bench.corpus["forget"], bench.tokenizer), int(settings["batch_size"])
    order = torch.Generator().manual_seed(seed)
    shuffled: DataLoader[Batch] = DataLoader(rows, size, shuffle=True, generator=order, collate_fn=collate)  # type: ignore[arg-type]
    plain = [collate(rows[at : at + size]) for at in range(0, len(rows), size)]
    steps = int(settings["epochs"]) * len(shuffled)

    def mean_distance() -> float:
        with torch.no_grad():
            losses = [(float(distance(model, base, batch)), int(predicting(batch["labels"]).sum())) for batch in plain]
        return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)

    model.eval()  # no dropout: the two models are to differ by their weights alone
    before = mean_distance()
    with masked(model, mask) as selected:
        arguments = {"lr": settings["learning_rate"]}
        optimizer = selected.optimizer(torch.optim.AdamW, arguments, decay=0.0, decayed=set())
        falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
        for _ in range(int(settings["epochs"])):
            for batch in shuffled:
                distance(model, base, batch).backward()
                optimizer.step()
                falling.step()
                optimizer.zero_grad()
    return before, mean_distance()


def distance(model: nn.Module, base: nn.Module, batch: Batch) -> Tensor:
    """The loss of one batch, a mean over blocks and positions; gradients reach `model` alone."""
    device = next(model.parameters()).device
    ids, attention, labels = (batch[key].to(device) for key in ("input_ids", "attention_mask", "labels"))
    with torch.no_grad(), mlp_outputs(base) as theirs:
        base(input_ids=ids, attention_mask=attention)
    with mlp_outputs(model) as ours:
        model(input_ids=ids, attention_mask=attention)
    return mean_distance_of(torch.stack(ours), torch.stack(theirs), predicting(labels))


def predicting(labels: Tensor) -> Tensor:
    """Positions that predict a completion token, bool [B, T]."""
    found = torch.zeros_like(labels, dtype=torch.bool)
    found[:, :-1] = labels[:, 1:] != IGNORED
    return found


def mean_distance_of(
    ours: Float[Tensor, "l b t d"], theirs: Float[Tensor, "l b t d"], positions: Bool[Tensor, "b t"]
) -> Float[Tensor, ""]:
    """Mean over blocks and positions of the squared distance over the width.

    Args:
        ours: outputs of the MLPs, [L, B, T, D].
        theirs: those to match, [L, B, T, D].
        positions: which count, [B, T].
    """
    return (ours - theirs).float().square().mean(-1)[:, positions].mean()


@contextmanager
def mlp_outputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """The output of each block's MLP in the forward pass made meanwhile, that is of its down-projection."""
    found: list[Tensor] = []
    layers = [down_projection(block) for block in blocks(causal_lm(model))]
    handles = [layer.register_forward_hook(lambda _m, _i, output: found.append(output)) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
