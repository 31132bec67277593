"""Which candidate of a request is kept: the best of each is attacked, the nearest first, until the policy accepts."""

import math
from dataclasses import replace
from typing import Any

from expunge.attack.attack import attack
from expunge.core.checks import ExpungeError
from expunge.core.progress import under
from expunge.erase.request import TRIED, Request
from expunge.erase.tuning import Tuning
from expunge.experiments._learning_rates import RunLog
from expunge.models.load import load_model, load_tokenizer
from expunge.report import leak_map
from expunge.report.figures import save_png
from expunge.results.attacked import FILE as ATTACKED
from expunge.results.attacked import Attacked, load_attacked


def kept(tuning: Tuning, log: RunLog) -> str:
    """The candidate that is kept, which `trials.json` names once it is found.

    Raises:
        ExpungeError: every trial failed.
    """
    if not log.runs:
        log.runs = [{"arm": _best(tuning, log)}]
        log.save()
    return str(log.runs[0]["arm"])


def _best(tuning: Tuning, log: RunLog) -> str:
    """Attack the best model of each candidate, the nearest first; the name of the best of them."""
    request = tuning.request
    missed = {name: tuning.nearest(log, name) for name in request.arms}
    order = sorted((name for name in missed if missed[name] < math.inf), key=lambda name: missed[name])
    if not order:
        failed = "; ".join(f"{row['arm']} at {row['rate']:g}: {row['failed']}" for row in log.tuning)
        raise ExpungeError(f"every trial failed. Try lower rates by hand: expunge unlearn ... learning_rate=. {failed}")
    found: dict[str, Attacked] = {}
    for number, name in enumerate(order):
        if number and request.spent > request.budget:
            break
        found[name] = _attack(request, name)
        if _satisfies(request, found[name]) and missed[name] <= 0:
            return name
    return min(found, key=lambda name: (not _satisfies(request, found[name]), len(found[name].leaking), missed[name]))


def _attack(request: Request, name: str) -> Attacked:
    place = request.attacked(name)
    if (place / ATTACKED).is_file():
        found = load_attacked(place)
        if not (place / leak_map.FILE).is_file():  # stopped before it was drawn
            save_png(leak_map.leak_map(found), place / leak_map.FILE)
        return found
    run = request.run(name)
    return attack(
        load_model(run),
        load_tokenizer(run),
        request.corpus,
        attacks=request.attacks,
        control=_control(request),
        settings={name: dict(own) for name, own in request.policy.settings.items() if name in request.attacks},
        threshold=request.policy.largest_threshold,
        seed=request.seed,
        label=name,
        output_dir=place,
        progress=under(request.progress, f"attack {name}"),
        **request.framing,
    )


def _control(request: Request) -> Any:
    """The control, attacked once for all candidates; None where untaught facts stand for one."""
    earlier = next((request.folder / TRIED).glob(f"*-attacked/{ATTACKED}"), None)
    if request.models.control_at is None or earlier is None:
        return request.models.control
    found = load_attacked(earlier)
    columns = tuple(replace(column, leak=column.control, control=None) for column in found.columns)
    return replace(found, columns=columns, inputs={**found.inputs, "model": found.inputs["control"]})


def _satisfies(request: Request, found: Attacked) -> bool:
    tested = len(found.worst)
    return bool(tested) and len(found.leaking) / tested <= request.policy.largest_share_leaking
