"""A limit of memory: the cheapest settings of a run that keep it, and what to try once a run met one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from expunge.core.checks import ExpungeError
from expunge.core.format import in_units
from expunge.core.surface import assigned
from expunge.training.plan import Plan
from expunge.training.training_config import bytes_of

Take = Callable[[Plan], float]
"""Bytes that a run is estimated to take."""
NAMED = 4
"""Most settings that a message lists."""


def sparing(plan: Plan) -> Iterator[Plan]:
    """A plan as it is, then ever slower ways to compute the same: smaller micro-batches, then checkpointing with each.

    What was asked for stays: a micro-batch of the user's own size, and checkpointing.
    """
    config = plan.training
    share, _ = config.split()
    sizes = [n for n in range(share, 0, -1) if share % n == 0] if config.micro_batch_size is None else [share]
    for checkpointing in (True,) if config.gradient_checkpointing else (False, True):
        for micro in sizes:
            yield plan.computed(micro, checkpointing=checkpointing)


def fitted(plan: Plan, take: Take) -> Plan:
    """The plan in the fastest way that keeps to its limit of memory; as it is where it has none.

    Raises:
        ExpungeError: no way does.
    """
    if plan.training.memory is None:
        return plan
    limit, least = bytes_of(plan.training.memory), None
    for way in sparing(plan):
        taken = take(way)
        if taken <= limit:
            return way
        least = taken if least is None else min(least, taken)
    assert least is not None
    raise ExpungeError(
        f"memory={plan.training.memory} is less than this run takes however it is computed: {in_units(least)} at "
        "least. Allow more, or train less: adapter=lora, a mask, or a smaller max_length."
    )


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


@contextmanager
def explained(plan: Plan, take: Take) -> Iterator[None]:
    """An error of memory ends with the settings that take less.

    Raises:
        ExpungeError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        now = take(plan)
        less = [(way, taken) for way in sparing(plan) if (taken := take(way)) < now][:NAMED]
        listed = "; ".join(f"{told(way)} ({in_units(taken)})" for way, taken in less)
        advice = f"It takes less with {listed}." if less else "Train less: adapter=lora or a mask."
        raise ExpungeError(
            f"out of memory, in a run that was estimated to take {in_units(now)} with {told(plan)}. {advice} "
            "memory=<limit> chooses by itself."
        ) from error


def ran_out(error: BaseException) -> bool:
    """Did memory run out? PyTorch's allocator for CPUs says so in words only."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    )
