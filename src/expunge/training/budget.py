"""A limit of memory: the cheapest settings of a run that keep it, and what to try once a run met one."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from expunge.core.checks import ExpungeError
from expunge.core.format import in_units
from expunge.core.surface import assigned
from expunge.training.plan import Plan
from expunge.training.training_config import bytes_of

Estimate = Callable[[Plan], float]
"""Bytes that a run is estimated to take."""
NAMED = 4
"""Most settings that a message lists."""


def sparing(plan: Plan) -> Iterator[Plan]:
    """A plan as it is, then ever slower ways to compute the same: smaller micro-batches, then checkpointing with each.

    What was asked for stays: a micro-batch of the user's own size, and checkpointing.
    """
    micro = plan.training.micro_batch_size
    return _ways(plan, _sizes(plan) if micro is None else [micro])


def _sizes(plan: Plan) -> list[int]:
    """Micro-batches that divide a device's share, from the plan's own down to 1."""
    micro, steps = plan.training.split()
    return [n for n in range(micro, 0, -1) if micro * steps % n == 0]


def _ways(plan: Plan, sizes: Sequence[int]) -> Iterator[Plan]:
    for checkpointing in (True,) if plan.training.gradient_checkpointing else (False, True):
        for micro in sizes:
            yield plan.computed(micro, checkpointing=checkpointing)


def fitted(plan: Plan, estimate: Estimate, *, divided: bool = False) -> Plan:
    """The plan in the fastest way that keeps to its limit of memory; as it is where it has none.

    Args:
        plan: of a run.
        estimate: of what a run takes.
        divided: are the weights divided among processes?

    Raises:
        ExpungeError: no way does, or runs of this kind take no limit.
    """
    config = plan.training
    if config.memory is None:
        return plan
    if (refused := _without_limit(plan, divided=divided)) is not None:
        raise ExpungeError(f"memory={config.memory} {refused}. Leave it out.")
    limit, least = bytes_of(config.memory), math.inf
    for way in sparing(plan):
        amount = estimate(way)
        if amount <= limit:
            return way
        least = min(least, amount)
    own = config.micro_batch_size
    how = "however it is computed" if own is None else f"with {assigned(micro_batch_size=own)}"
    open_it = "" if own in (None, 1) else "leave micro_batch_size open, "
    raise ExpungeError(
        f"memory={config.memory} is less than this run takes {how}: {in_units(least)} at least. Allow more, "
        f"{open_it}or train less: {_less_training(plan)}."
    )


def _without_limit(plan: Plan, *, divided: bool) -> str | None:
    """Why a run can have no limit of memory; None: it can."""
    if plan.own_adapter:
        return "plans no run that trains an adapter which the model came with"
    if divided:
        return f"plans no run with {assigned(sharded=True)}: the estimate is that of whole weights on each device"
    return None


def _less_training(plan: Plan) -> str:
    """Settings with which a run of this kind trains fewer numbers, or on fewer tokens."""
    if plan.own_adapter:
        fewer = []
    elif plan.adaptation is not None:
        fewer = ["a smaller rank", "fewer targets"]
    elif plan.mask is not None:
        fewer = ["a smaller mask"]
    elif plan.objective.forget is None or plan.objective.perturbs is not None:
        fewer = ["a mask"]  # these runs take no adapter
    else:
        fewer = ["adapter=lora", "a mask"]
    *others, last = [*fewer, "a smaller max_length"]
    return f"{', '.join(others)} or {last}" if others else last


def as_results(plan: Plan) -> dict[str, Any]:
    """For the manifest of a run: how it keeps to its limit of memory, where it has one."""
    config = plan.training
    if config.memory is None:
        return {}
    micro, _ = config.split()
    way = {"micro_batch_size": micro, "gradient_checkpointing": config.gradient_checkpointing}
    return {"kept_to_memory": {"limit": config.memory, **way}}


def told(plan: Plan) -> str:
    """How a run is computed, as settings."""
    config = plan.training
    return assigned(micro_batch_size=config.split()[0], gradient_checkpointing=config.gradient_checkpointing)


def explained(asked: Plan, plan: Plan, estimate: Estimate, *, divided: bool = False) -> AbstractContextManager[None]:
    """Meanwhile an error of memory ends with the settings that take less.

    The estimates are made when this is called: a run changes its model, by an adapter for one.

    Args:
        asked: the plan before it was fitted to a limit of memory.
        plan: of the run.
        estimate: of what a run takes.
        divided: are the weights divided among processes? Nothing is estimated then.

    Raises:
        ExpungeError: in the context, where memory ran out.
    """
    if divided:  # the estimate does not hold, and would need all processes
        return _ending_with(
            f"out of memory, in a run with {told(plan)}. It takes less with a smaller micro_batch_size, "
            f"{assigned(gradient_checkpointing=True)}, or more processes."
        )
    now = estimate(plan)
    amounts = [(way, estimate(way)) for way in _ways(plan, _sizes(plan))]
    less = [(way, amount) for way, amount in amounts if amount < now]
    if len(less) > NAMED:  # the fastest, and the one that takes the least
        less = [*less[: NAMED - 1], min(less[NAMED - 1 :], key=lambda found: found[1])]
    listed = "; ".join(f"{told(way)} ({in_units(amount)})" for way, amount in less)
    advice = f"It takes less with {listed}." if less else f"Train less: {_less_training(plan)}."
    if less and _without_limit(plan, divided=False) is None:
        advice += f" {_choosing(asked)} to have these chosen for you."
    return _ending_with(
        f"out of memory, in a run that was estimated to take {in_units(now)} with {told(plan)}. {advice}"
    )


def _choosing(asked: Plan) -> str:
    """What to set so that the settings are chosen."""
    limit, own = asked.training.memory, asked.training.micro_batch_size
    lower = "set memory=<limit>" if limit is None else f"set a lower limit than memory={limit}"
    return f"{lower[0].upper()}{lower[1:]}" if own is None else f"Leave micro_batch_size open and {lower}"


@contextmanager
def _ending_with(message: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise ExpungeError(message) from error


def ran_out(error: BaseException) -> bool:
    """Did memory run out? PyTorch's allocator for CPUs says so in words only."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    )
