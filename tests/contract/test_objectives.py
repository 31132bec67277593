"""What every forget and retain loss must do, whoever wrote it: they are found by discovery, and each check can fail."""

import inspect
import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from inputs import (
    LOGPROBS_ONLY,
    Inputs,
    example_inputs,
    example_tables,
    gradients,
    inputs_from,
    loud,
    mask_of,
    shown,
    step_value,
    trained,
    values_and_counts,
    with_gradients,
)
from torch import Tensor
from torch.testing import assert_close

from expunge.core import catalogue
from expunge.core.checks import ExpungeError
from expunge.objectives.combine import Loss as Combined
from expunge.objectives.combine import build
from expunge.objectives.method import Method, method_of

Loss = Callable[..., Any]

FORGET, RETAIN = catalogue.names("methods"), catalogue.names("retain_losses")
ALL = [("methods", name) for name in FORGET] + [("retain_losses", name) for name in RETAIN]
TEACHES = {"learn", "learn_reg"}

every_loss = pytest.mark.parametrize(("kind", "name"), ALL, ids=[name for _, name in ALL])


def observables(loss: Loss) -> set[str]:
    return {name.removeprefix("reference_").removeprefix("alternate_") for name in catalogue.needs(loss)}


def test_discovery_finds_the_losses():
    # An empty or broken list would let every test below pass in silence.
    assert {"npo", "rmu", "undial", "idk"} <= set(FORGET)
    assert {"nll", "kl", "hidden"} <= set(RETAIN)


# Rows ----------------------------------------------------------------------------------------------------------------


def check_rows_are_independent(loss: Loss) -> None:
    inputs = example_inputs(loss)
    alone = [values_and_counts(loss, {k: x[i : i + 1] for k, x in inputs.items()}) for i in range(5)]
    values, counts = values_and_counts(loss, inputs)
    assert values.shape == (5,)
    assert_close(values, torch.cat([v for v, _ in alone]))
    if counts is not None:
        assert_close(counts, torch.cat([c for _, c in alone]))


def check_order_of_rows_is_harmless(loss: Loss) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    inputs = example_inputs(loss)
    values, counts = values_and_counts(loss, inputs)
    permuted, permuted_counts = values_and_counts(loss, {k: x[order] for k, x in inputs.items()})
    assert_close(permuted, values[order])
    if counts is not None:
        assert_close(permuted_counts, counts[order])


@every_loss
def test_rows_are_independent(kind: str, name: str):
    check_rows_are_independent(catalogue.resolve(kind, name))


@every_loss
def test_order_of_rows_is_harmless(kind: str, name: str):
    check_order_of_rows_is_harmless(catalogue.resolve(kind, name))


def test_the_row_checks_can_fail():
    def centered(logprobs: Tensor) -> Tensor:
        return logprobs - logprobs.mean()

    def numbered(logprobs: Tensor) -> Tensor:
        return logprobs * torch.arange(len(logprobs))

    with pytest.raises(AssertionError):
        check_rows_are_independent(centered)
    with pytest.raises(AssertionError):
        check_order_of_rows_is_harmless(numbered)


# Padding -------------------------------------------------------------------------------------------------------------


def check_padding_is_inert(loss: Loss, fill: float) -> None:
    inputs = example_inputs(loss)
    padded = loud(inputs, fill)
    values, counts = values_and_counts(loss, inputs)
    padded_values, padded_counts = values_and_counts(loss, padded)
    assert_close(padded_values, values)
    if counts is not None:
        assert_close(padded_counts, counts)
    plain = gradients(loss, inputs)
    for key, gradient in gradients(loss, padded).items():
        if gradient.dim() < 2:
            assert_close(gradient, plain[key])
            continue
        mask = mask_of(key, len(gradient))
        width = mask.shape[1]
        assert_close(gradient[:, :width][mask], plain[key][mask])
        assert not gradient[:, :width][~mask].any() and not gradient[:, width:].any()


@pytest.mark.parametrize("fill", [1e4, torch.inf, torch.nan], ids=str)
@every_loss
def test_padding_is_inert(kind: str, name: str, fill: float):
    check_padding_is_inert(catalogue.resolve(kind, name), fill)


def test_the_padding_check_can_fail():
    def averaged_over_all(logits: Tensor) -> Tensor:
        return logits.mean((1, 2))

    def multiplied_by_the_mask(token_logprobs: Tensor, completion_mask: Tensor) -> Tensor:
        return (token_logprobs * completion_mask).sum(-1)  # right for finite padding, NaN * 0 = NaN otherwise

    def masked_after(token_logprobs: Tensor, completion_mask: Tensor) -> Tensor:
        weighted = token_logprobs.exp() * token_logprobs  # the value is right, the gradient 0 * inf = NaN
        return torch.where(completion_mask, weighted, torch.zeros_like(weighted)).sum(-1)

    with pytest.raises(AssertionError):
        check_padding_is_inert(averaged_over_all, 1e4)
    check_padding_is_inert(multiplied_by_the_mask, 1e4)
    for broken in (multiplied_by_the_mask, masked_after):
        with pytest.raises(AssertionError):
            check_padding_is_inert(broken, torch.inf)


# Gradients -----------------------------------------------------------------------------------------------------------


def holding_detached(loss: Loss) -> Loss:
    """The loss with every detached tensor held at what it was in the first call, as finite differences must have it.

    A weight that lets no gradient pass is a constant to the backward pass but not to a difference of two values.
    """
    detach, held = torch.Tensor.detach, []
    recording = True

    def held_loss(*inputs: Tensor) -> Any:
        nonlocal recording
        replay = iter(held)

        def hold(tensor: Tensor) -> Tensor:
            if recording:
                held.append(detach(tensor).clone())
                return held[-1]
            return next(replay)

        with patch.object(torch.Tensor, "detach", hold):
            found = loss(*inputs)
        recording = False
        return found

    return held_loss


def check_gradient_is_right(loss: Loss) -> None:
    inputs = with_gradients(example_inputs(loss, rows=2, seed=1))
    held_loss = holding_detached(loss)
    moved = [name for name in inputs if trained(name)]

    def values(*tensors: Tensor) -> Tensor:
        return values_and_counts(held_loss, inputs | dict(zip(moved, tensors, strict=True)))[0]

    assert moved, "no input of this loss carries a gradient"
    assert torch.autograd.gradcheck(values, tuple(inputs[name] for name in moved), atol=1e-7, rtol=1e-5)


@every_loss
def test_gradient_is_right(kind: str, name: str):
    check_gradient_is_right(catalogue.resolve(kind, name))


def test_the_gradient_check_can_fail():
    def half_hidden(logprobs: Tensor) -> Tensor:
        return logprobs.data * logprobs

    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        check_gradient_is_right(half_hidden)


def test_the_gradient_check_holds_detached_weights_only():
    def weighted(logprobs: Tensor) -> Tensor:
        return logprobs.detach() * logprobs

    check_gradient_is_right(weighted)


# Precision and extremes ----------------------------------------------------------------------------------------------


def check_half_precision_is_raised(loss: Loss) -> None:
    half = example_inputs(loss, dtype=torch.bfloat16)
    single = {k: x.float() if x.is_floating_point() else x for k, x in half.items()}
    values, _ = values_and_counts(loss, half)
    assert values.dtype == torch.float32
    assert_close(values, values_and_counts(loss, single)[0], rtol=1e-6, atol=1e-6)


def check_double_precision_is_kept(loss: Loss) -> None:
    assert values_and_counts(loss, example_inputs(loss))[0].dtype == torch.float64


@every_loss
def test_half_precision_is_raised(kind: str, name: str):
    check_half_precision_is_raised(catalogue.resolve(kind, name))


@every_loss
def test_double_precision_is_kept(kind: str, name: str):
    check_double_precision_is_kept(catalogue.resolve(kind, name))


def test_the_precision_checks_can_fail():
    def summed_in_half(token_logprobs: Tensor) -> Tensor:
        return token_logprobs.sum(-1).float()

    with pytest.raises(AssertionError):
        check_half_precision_is_raised(summed_in_half)
    with pytest.raises(AssertionError):
        check_double_precision_is_kept(summed_in_half)


EXTREME = 1e4


def extreme_tables(now: float, before: float, dtype: torch.dtype) -> Inputs:
    """Both models certain (EXTREME: p is exactly 1) or certain of something else (-EXTREME: p underflows to 0)."""
    tables = example_tables(dtype=dtype)
    for key, x in tables.items():
        if key.endswith("logits"):
            targets = tables["alternate_targets" if "alternate_" in key else "targets"]
            target_logit = torch.full_like(x[..., :1], before if key.startswith("reference_") else now)
            tables[key] = x.scatter(-1, targets.unsqueeze(-1), target_logit)
        elif key.endswith("hidden"):
            tables[key] = torch.full_like(x, before if key.startswith("reference_") else now)
    return tables


def check_extremes_are_finite(loss: Loss, now: float, before: float, dtype: torch.dtype) -> None:
    inputs = inputs_from(loss, extreme_tables(now, before, dtype))
    assert values_and_counts(loss, inputs)[0].isfinite().all()
    for gradient in gradients(loss, inputs).values():
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("before", [EXTREME, -EXTREME, 0.0])
@pytest.mark.parametrize("now", [EXTREME, -EXTREME, 0.0])
@every_loss
def test_extremes_are_finite(kind: str, name: str, now: float, before: float, dtype: torch.dtype):
    check_extremes_are_finite(catalogue.resolve(kind, name), now, before, dtype)


SHOWN_LOGITS = [
    (kind, name)
    for kind, name in ALL
    if "logits" in observables(catalogue.resolve(kind, name)) and name != "pdu"  # its spread of logits is then infinite
]


@pytest.mark.parametrize(("kind", "name"), SHOWN_LOGITS, ids=[name for _, name in SHOWN_LOGITS])
def test_tokens_that_a_model_rules_out_are_inert(kind: str, name: str):
    """Logits of minus infinity, as models with a padded vocabulary give them, count as very improbable tokens do."""
    loss, ruled = catalogue.resolve(kind, name), {}
    for far in (-torch.inf, -1e3):
        tables = example_tables()
        for table in ("logits", "reference_logits", "alternate_logits", "reference_alternate_logits"):
            tables[table] = torch.cat([tables[table], torch.full_like(tables[table][..., :2], far)], -1)
        ruled[far] = inputs_from(loss, tables)
    assert_close(values_and_counts(loss, ruled[-torch.inf])[0], values_and_counts(loss, ruled[-1e3])[0])
    for out, improbable in zip(
        gradients(loss, ruled[-torch.inf]).values(), gradients(loss, ruled[-1e3]).values(), strict=True
    ):
        assert_close(out, improbable)


def test_the_extremes_are_extreme():
    for dtype in (torch.float32, torch.float64):
        certain = shown("token_logprobs", extreme_tables(EXTREME, 0.0, dtype))
        assert (certain.exp() == 1).all()
        ruled_out = shown("token_logprobs", extreme_tables(-EXTREME, 0.0, dtype))[mask_of("token_logprobs", 5)]
        assert (ruled_out.exp() == 0).all()


def test_the_check_of_extremes_can_fail():
    def log_of_underflow(logits: Tensor, targets: Tensor) -> Tensor:
        return logits.softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1).log().sum(-1)

    def square_root(logprobs: Tensor) -> Tensor:
        return (-torch.expm1(logprobs)).sqrt()  # finite at p = 1, its gradient is not

    with pytest.raises(AssertionError):
        check_extremes_are_finite(log_of_underflow, -EXTREME, 0.0, torch.float32)
    with pytest.raises(AssertionError):
        check_extremes_are_finite(square_root, EXTREME, 0.0, torch.float32)


# What a step does ----------------------------------------------------------------------------------------------------


def memorized() -> Inputs:
    """The start of unlearning: the model, here also the reference model, is fairly sure of every forget token."""
    tables = example_tables()
    tables["logits"] = tables["logits"].scatter_add(
        -1, tables["targets"].unsqueeze(-1), torch.full_like(tables["logits"][..., :1], 6.0)
    )
    return tables | {"reference_logits": tables["logits"], "reference_alternate_logits": tables["alternate_logits"]}


def after_a_step(loss: Loss, tables: Inputs, rate: float = 1e-2) -> Inputs:
    leaves = {k: x.clone().requires_grad_(trained(k)) for k, x in tables.items()}
    step_value(loss, inputs_from(loss, leaves)).backward()
    return {k: x.detach() - rate * x.grad if x.grad is not None else x.detach() for k, x in leaves.items()}


def check_a_step_does_its_work(loss: Loss, *, teaches: bool = False) -> None:
    before = memorized()
    after = after_a_step(loss, before)
    gained = {k: shown(k, after) - shown(k, before) for k in ("logprobs", "alternate_logprobs")}
    if "hidden" in observables(loss):
        # Each hidden-state loss is a distance from a target: the step has to come nearer to it.
        moved, still = (values_and_counts(loss, inputs_from(loss, tables))[0] for tables in (after, before))
        assert (moved < still).all()
        assert not torch.equal(after["hidden"], before["hidden"])
        return
    if any("alternate_" in name for name in catalogue.needs(loss)):
        assert (gained["alternate_logprobs"] > 0).all()
    if any("alternate_" not in name for name in catalogue.needs(loss)):
        direction = 1 if teaches else -1
        assert (direction * gained["logprobs"] >= 0).all() and (direction * gained["logprobs"]).sum() > 1e-6


@pytest.mark.parametrize("name", FORGET)
def test_a_step_does_its_work(name: str):
    check_a_step_does_its_work(catalogue.resolve("methods", name), teaches=name in TEACHES)


@pytest.mark.parametrize("name", RETAIN)
def test_a_step_brings_the_retain_loss_down(name: str):
    loss = catalogue.resolve("retain_losses", name)
    before = example_tables()
    after = after_a_step(loss, before)
    assert step_value(loss, inputs_from(loss, after)) < step_value(loss, inputs_from(loss, before)) - 1e-6


def test_the_check_of_a_step_can_fail():
    def wrong_way(logprobs: Tensor) -> Tensor:
        return -logprobs

    def away(hidden: Tensor, reference_hidden: Tensor) -> Tensor:
        return (hidden - hidden.detach() - reference_hidden).square().mean((1, 2))  # its gradient ignores where it is

    def no_alternate(logprobs: Tensor, alternate_logprobs: Tensor) -> Tensor:
        return logprobs + alternate_logprobs

    for broken in (wrong_way, away, no_alternate):
        with pytest.raises(AssertionError):
            check_a_step_does_its_work(broken)
    check_a_step_does_its_work(wrong_way, teaches=True)


# Tokens --------------------------------------------------------------------------------------------------------------

TOKENWISE = [(kind, name) for kind, name in ALL if method_of(catalogue.resolve(kind, name)).tokenwise]


def test_every_loss_of_logits_is_computed_a_few_tokens_at_a_time():
    assert TOKENWISE == [(kind, name) for kind, name in ALL if "logits" in observables(catalogue.resolve(kind, name))]
    assert len(TOKENWISE) >= 7


def check_tokens_make_the_row(loss: Combined) -> None:
    """Value, counts and gradients of whole rows, from each token as a row of its own."""
    tables = {k: x.requires_grad_(k == "logits") for k, x in example_tables().items()}
    mask = mask_of("logits", len(tables["logits"]))
    term = loss.term(lambda need: shown(("reference_" if need.by == "reference" else "") + need.observable, tables))
    (whole,) = torch.autograd.grad((term.values * torch.arange(1, 6)).sum(), tables["logits"])
    flat = [tables[name][mask] for name in ("logits", "reference_logits", "targets")]
    values = torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask, loss.of_tokens(*flat))
    found = loss.of_rows(values, mask)
    (cut,) = torch.autograd.grad((found.values * torch.arange(1, 6)).sum(), tables["logits"])
    assert_close(found.values, term.values)
    assert_close(cut, whole)
    assert (found.counts is None) == (term.counts is None)
    if term.counts is not None:
        assert_close(found.counts, term.counts)


@pytest.mark.parametrize(("kind", "name"), TOKENWISE, ids=[name for _, name in TOKENWISE])
def test_tokens_make_the_row(kind: str, name: str):
    more = {"ignore_first": 2} if name == "ceu" else {}
    objective = build(name, retain="none", hyperparameters=more) if kind == "methods" else build(None, retain=name)
    loss = objective.forget or objective.retain
    assert loss is not None
    check_tokens_make_the_row(loss)


def test_the_check_of_tokens_can_fail():
    def over_the_row(logits: Tensor, completion_mask: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.where(completion_mask[..., None], logits, 0.0).amax(-1)
        return scores.sum(-1) ** 2, completion_mask.sum(-1).double()

    with (
        pytest.raises(AssertionError),
        patch.object(Combined, "method", Method(reduction="token", tokenwise=True)),
    ):
        check_tokens_make_the_row(Combined(name="over_the_row", function=over_the_row, own="forget"))


def test_a_tokenwise_loss_asks_for_what_tokens_have():
    def hybrid(logits: Tensor, logprobs: Tensor) -> Tensor:
        return logits.amax((1, 2)) + logprobs

    module = sys.modules[__name__]
    with (
        patch.object(module, "METHOD", Method(reduction="sequence", tokenwise=True), create=True),
        patch.object(catalogue, "resolve", lambda kind, name: hybrid),
        pytest.raises(
            ExpungeError, match="hybrid is declared tokenwise and asks for logprobs; a tokenwise loss may ask"
        ),
    ):
        build("hybrid", retain="none")


# vmap ----------------------------------------------------------------------------------------------------------------


def check_rows_can_be_mapped(loss: Loss) -> None:
    inputs = example_inputs(loss)
    moved = next(i for i, name in enumerate(inputs) if trained(name))

    def value(*row: Tensor) -> Tensor:
        one = {name: x.unsqueeze(0) for name, x in zip(inputs, row, strict=True)}
        return values_and_counts(loss, one)[0].squeeze(0)

    mapped = torch.func.vmap(value)(*inputs.values())
    assert_close(mapped, values_and_counts(loss, inputs)[0])
    slopes = torch.func.vmap(torch.func.grad(value, argnums=moved))(*inputs.values())
    weights = torch.arange(1, len(slopes) + 1).view(-1, *[1] * (slopes.dim() - 1))
    assert_close(slopes * weights, gradients(loss, inputs)[list(inputs)[moved]])


MAPPED = [(kind, name) for kind, name in ALL if observables(catalogue.resolve(kind, name)) <= LOGPROBS_ONLY]


def test_losses_of_logprobs_are_there():
    assert {"npo", "simnpo", "tnpo", "dpo", "nll"} <= {name for _, name in MAPPED}


@pytest.mark.parametrize(("kind", "name"), MAPPED, ids=[name for _, name in MAPPED])
def test_rows_can_be_mapped(kind: str, name: str):
    check_rows_can_be_mapped(catalogue.resolve(kind, name))


def test_the_check_of_mapping_can_fail():
    def branching(logprobs: Tensor) -> Tensor:
        return logprobs if bool((logprobs < 0).all()) else -logprobs

    with pytest.raises(RuntimeError, match="data-dependent"):
        check_rows_can_be_mapped(branching)


# What a file says of itself ------------------------------------------------------------------------------------------


@every_loss
def test_a_loss_says_what_it_is(kind: str, name: str):
    loss = catalogue.resolve(kind, name)
    module = sys.modules[loss.__module__]
    method = vars(module).get("METHOD")
    assert isinstance(method, Method)
    assert method.retain == "none" or method.retain in RETAIN
    assert (method.retain == "none") == (method.alpha == 0)
    assert method.skips is None or method.skips in catalogue.hyperparameters(loss)
    assert set(method.observes) == ({"layer", "positions"} if "hidden" in observables(loss) else set())
    own = [f for f in vars(module).values() if inspect.isfunction(f) and f.__module__ == module.__name__]
    assert [f.__name__ for f in own if not f.__name__.startswith("_")] == [name]


@every_loss
def test_the_reduction_is_the_one_declared(kind: str, name: str):
    loss = catalogue.resolve(kind, name)
    _, counts = values_and_counts(loss, example_inputs(loss))
    assert sys.modules[loss.__module__].METHOD.reduction == ("sequence" if counts is None else "token")


@every_loss
def test_the_docstring_holds_what_the_docs_need(kind: str, name: str):
    text = inspect.getdoc(catalogue.resolve(kind, name)) or ""
    for section in ("Args:", "Returns:", "Source: ", "Defaults: ", "Departures: "):
        assert section in text, f"{name} has no '{section.strip()}' in its docstring"
    for parameter in inspect.signature(catalogue.resolve(kind, name)).parameters:
        assert f"    {parameter}: " in text, f"{name} does not document '{parameter}'"
    refuses = "require" in inspect.getsource(sys.modules[catalogue.resolve(kind, name).__module__])
    assert ("Raises:" in text) >= refuses, f"{name} refuses something that its docstring does not tell"
