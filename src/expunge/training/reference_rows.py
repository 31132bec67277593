"""Reference values for a run: how they are obtained, and the rows with them."""

from dataclasses import replace
from typing import Literal

from torch import nn

from expunge.core.checks import ExpungeError
from expunge.core.progress import Progress
from expunge.models.reference import ReferencePolicy, bytes_kept, choose, kept_of, precompute
from expunge.objectives.combine import Objective
from expunge.training.rows import RunRows


def with_reference(
    model: nn.Module,
    rows: RunRows,
    objective: Objective,
    policy: ReferencePolicy,
    progress: Progress | None,
    *,
    autocast: bool = False,
) -> tuple[RunRows, Literal["none", "precomputed", "model"]]:
    """How reference values are obtained, and the rows with them where they are computed beforehand."""
    needs = objective.needs("reference")
    how = choose(policy, needs, reference_size(model, rows, objective) if policy == "auto" else 0)
    if how != "precomputed":
        return rows, how
    tables = {
        stream: precompute(
            model,
            rows.encoded[stream],
            observables=kept_of(names),
            layer=objective.layer,
            positions=objective.positions,
            used=rows.used(stream),
            autocast=autocast,
            progress=progress,
        )
        for stream, names in needs.items()
    }
    return replace(rows, tables=tables), how


def reference_size(model: nn.Module, rows: RunRows, objective: Objective) -> int:
    """Bytes that the reference values of a run take when they are kept."""
    return sum(
        bytes_kept(
            model, sum(len(r.ids) - r.start for r in map(rows.encoded[stream].__getitem__, rows.used(stream))), names
        )
        for stream, names in objective.needs("reference").items()
    )


def check_eps(model: nn.Module, rows: RunRows, objective: Objective) -> None:
    """Raise for primal-dual training without a bound on the retain loss; the error gives the start model's.

    Args:
        model: the start model.
        rows: the run's rows.
        objective: what is trained.

    Raises:
        ExpungeError: the method needs `eps`, and none was given.
    """
    if objective.dual is None or objective.dual.eps is not None:
        return
    tables = {name: precompute(model, rows.encoded[name]) for name in objective.retain_sets}
    start = sum(
        weight * -float(tables[name].values["token_logprobs"].mean()) for name, weight in objective.retain_sets.items()
    )
    assert objective.forget is not None
    raise ExpungeError(
        f"{objective.forget.name} holds the retain loss below eps, which has no default: the start model's is "
        f"{start:.4g} nats a token here; give eps=<somewhat more>, such as eps={max(1.5 * start, start + 0.1):.2g}."
    )


def require_eps(objective: Objective) -> None:
    """Raise for a missing `eps` before the start model, whose retain loss would suggest one, is loaded."""
    if objective.dual is not None and objective.dual.eps is None:
        assert objective.forget is not None
        raise ExpungeError(
            f"{objective.forget.name} holds the retain loss below eps, which has no default: give eps=<nats a token>, "
            "somewhat more than the start model's. A start without --dry-run computes that and suggests a value."
        )
