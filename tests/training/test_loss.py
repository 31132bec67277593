"""compute_loss against published implementations' values, on tiny checkpoints in float64."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

import expunge
from expunge.core.checks import ExpungeError

Rows = dict[str, Tensor]


@cache
def checkpoint(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()


def rows(folder: Path, name: str, *, side: str = "right", loud: int = 0) -> Rows:
    """A batch of `batches.json`; `loud` adds that many padding columns filled with a real token id."""
    found = json.loads((folder / "batches.json").read_text())[name]
    width = max(len(row["input_ids"]) for row in found) + loud
    batch = {
        "input_ids": torch.full((len(found), width), 77 if loud else 0),
        "attention_mask": torch.zeros(len(found), width, dtype=torch.long),
        "labels": torch.full((len(found), width), -100),
    }
    for i, row in enumerate(found):
        ids = torch.tensor(row["input_ids"])
        place = slice(0, len(ids)) if side == "right" else slice(width - len(ids), width)
        batch["input_ids"][i, place] = ids
        batch["attention_mask"][i, place] = 1
        labels = ids.clone()
        labels[: row["prompt_length"]] = -100
        batch["labels"][i, place] = labels
    return batch


CASES = {
    "grad_ascent": {"method": "grad_ascent"},
    "grad_diff": {"method": "grad_diff", "gamma": 1.0, "alpha": 1.0},
    "npo_beta0.1": {"method": "npo", "beta": 0.1},
    "simnpo": {"method": "simnpo", "gamma": 0.125, "alpha": 1.0, "beta": 4.5, "delta": 0.0},
    "dpo": {"method": "dpo", "beta": 0.1},
    "ihl": {"method": "ihl", "retain_loss": "none"},
    "undial_b10": {"method": "undial", "beta": 10.0, "retain_loss": "none"},
    "rmu_c2": {"method": "rmu", "layer": 1, "coefficient": 2.0, "retain_loss": "hidden", "gamma": 1.0, "alpha": 1.0},
}


def value(folder: Path, name: str, shape: str, **how: Any) -> tuple[Tensor, PreTrainedModel]:
    arguments = dict(CASES[name])
    if name.startswith("rmu"):
        arguments["direction"] = torch.tensor(
            json.loads((folder / "expected.json").read_text())["rmu_direction"], dtype=torch.float64
        )
    model = checkpoint(folder / "current")
    model.zero_grad()
    loss = expunge.compute_loss(
        model,
        forget=rows(folder, f"forget_{shape}", **how),
        retain=rows(folder, f"retain_{shape}", **how),
        alternate=rows(folder, f"alternate_{shape}", **how),
        reference=checkpoint(folder / "reference"),
        **arguments,
    )
    return loss, model


EXPECTED = [(name, shape) for name in CASES for shape in ("even", "ragged")]


@pytest.mark.parametrize(("name", "shape"), EXPECTED)
def test_losses_and_gradients_are_those_of_the_published_code(shared_reference: Path, name: str, shape: str) -> None:
    expected = json.loads((shared_reference / "expected.json").read_text())["losses"]
    if f"{name}/{shape}" not in expected:
        pytest.skip("no published value for this pair")
    loss, model = value(shared_reference, name, shape)
    want = expected[f"{name}/{shape}"]
    assert loss.item() == pytest.approx(want["loss"], rel=2e-6)
    loss.backward()
    parameters = dict(model.named_parameters())
    for parameter, norm in want["grad_norms"].items():
        gradient = parameters[parameter].grad
        assert (0.0 if gradient is None else gradient.norm().item()) == pytest.approx(norm, rel=1e-5, abs=1e-12)


def test_retain_kl_alone(shared_reference: Path) -> None:
    expected = json.loads((shared_reference / "expected.json").read_text())["losses"]["retain_kl/even"]
    forget, retain = rows(shared_reference, "forget_even"), rows(shared_reference, "retain_even")
    loss = expunge.compute_loss(
        checkpoint(shared_reference / "current"),
        forget=forget,
        retain=retain,
        method="grad_diff",
        gamma=0.0,
        retain_loss="kl",
        reference=checkpoint(shared_reference / "reference"),
    )
    assert loss.item() == pytest.approx(expected["loss"], rel=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_padding_on_either_side_moves_nothing(shared_reference: Path, name: str) -> None:
    plain, model = value(shared_reference, name, "ragged")
    plain.backward()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    for how in ({"side": "left"}, {"loud": 3}, {"side": "left", "loud": 5}):
        padded, model = value(shared_reference, name, "ragged", **how)
        padded.backward()
        torch.testing.assert_close(padded, plain, rtol=1e-12, atol=0)
        for before, p in zip(gradients, model.parameters(), strict=True):
            if before is not None:
                torch.testing.assert_close(p.grad, before, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "npo", "beta": "0.1"}, r"npo: beta must be a number; got '0\.1'\."),
        ({"method": "npo", "beta": True}, r"npo: beta must be a number; got True\."),
        ({"method": "bst", "top": 2.5}, r"bst: top must be a whole number; got 2\.5\."),
        ({"method": "rmu", "layer": 1, "normalize": 1}, r"rmu: normalize must be true or false; got 1\."),
        ({"method": "npo", "retain_loss": "kl", "direction": 1}, r"kl: direction must be text; got 1\."),
    ],
)
def test_types_of_hyperparameters(shared_reference: Path, settings: dict[str, Any], message: str) -> None:
    batch = rows(shared_reference, "forget_even")
    model = checkpoint(shared_reference / "current")
    with pytest.raises(ExpungeError, match=message):
        expunge.compute_loss(model, forget=batch, retain=batch, reference=model, **settings)


def test_a_name_that_both_losses_know(shared_reference: Path) -> None:
    """RMU steers to a `direction`, and KL has one of its own: `retain_direction`."""
    model, other = checkpoint(shared_reference / "current"), checkpoint(shared_reference / "reference")
    batch = rows(shared_reference, "forget_even")

    def loss(**more: Any) -> Tensor:
        how = {"method": "rmu", "layer": 1, "gamma": 0.0, "alpha": 1.0, "retain_loss": "kl"} | more
        return expunge.compute_loss(model, forget=batch, retain=batch, reference=other, **how)

    alone = {"method": "grad_diff", "gamma": 0.0, "alpha": 1.0, "retain_loss": "kl"}
    reverse = expunge.compute_loss(
        model,
        forget=batch,
        retain=batch,
        reference=other,
        direction="reverse",
        **alone,  # type: ignore[arg-type]
    )
    torch.testing.assert_close(loss(retain_direction="reverse"), reverse)
    assert abs(loss() - reverse).item() > 1e-3


def test_what_is_missing_is_named(shared_reference: Path) -> None:
    model, forget = checkpoint(shared_reference / "current"), rows(shared_reference, "forget_even")
    with pytest.raises(ExpungeError, match="npo compares with the start model: pass it as reference"):
        expunge.compute_loss(model, forget=forget, method="npo")
    with pytest.raises(ExpungeError, match="dpo needs alternate rows"):
        expunge.compute_loss(model, forget=forget, method="dpo", reference=model)
    with pytest.raises(ExpungeError, match="nll needs retain rows"):
        expunge.compute_loss(model, forget=forget, method="grad_diff", retain_loss="nll")
    with pytest.raises(ExpungeError, match=r"'nop'.*Did you mean 'npo'"):
        expunge.compute_loss(model, forget=forget, method="nop")
    with pytest.raises(ExpungeError, match=r"'betta'.*Did you mean 'beta'"):
        expunge.compute_loss(model, forget=forget, method="npo", reference=model, betta=0.2)
    with pytest.raises(ExpungeError, match="lacks labels"):
        expunge.compute_loss(model, forget={"input_ids": forget["input_ids"]}, method="grad_ascent")
    nothing = {**forget, "labels": torch.full_like(forget["labels"], -100)}
    with pytest.raises(ExpungeError, match="row 0 of the forget batch has no completion token"):
        expunge.compute_loss(model, forget=nothing, method="grad_ascent")
