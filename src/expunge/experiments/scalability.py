"""Scalability: what does a larger forget set cost?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.progress import Progress
from expunge.experiments._requests import Bench, Found, Requests


def scalability(
    folder: str | Path = "expunge-scalability",
    *,
    methods: Sequence[str] = ("grad_ascent", "grad_diff", "npo"),
    requests: int = 3,
    authors: int = 60,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Requests:
    """Forget more and more at once: what does a larger forget set cost?

    A growing part of the embedded forget set is unlearned, each time from the start model. The forget measures look at
    the part that was forgotten. A larger part means more steps, since epochs stay.

    Args:
        folder: where `scalability.json` and `scalability.png` go. What an earlier run with the same settings has
            measured there is not run again.
        methods: unlearning methods, of those of the demonstration.
        requests: sizes, at even steps up to the whole forget set; at least 2 and at most its authors.
        authors: invented authors, a tenth of whom are to be forgotten.
        seed: of everything.
        settings: training settings over those of the demonstration: `settings.epochs=5`.
        overwrite: replace an earlier result in `folder` that was made with other settings.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: the folder is in use, an unknown method, or a number out of range.

    Source: MUSE, arXiv:2407.06460, scalability. Departures: invented authors instead of news.
    """
    bench = Bench("scalability", Path(folder), methods, requests, authors, seed, overwrite, progress, settings or {})
    found: dict[str, Found] = {}
    for method in methods:
        found[method] = bench.known(method)
        for n in range(1, requests + 1):
            forget = [example for part in bench.parts[:n] for example in part]
            if len(forget) in found[method]:
                continue
            what = f"{method}, {len(forget)} examples"
            model = bench.unlearned(bench.start(), forget, method, what)
            found[method][len(forget)] = bench.measured(model, forget, what)
            bench.keep(method, found[method])
    return bench.written(found, "forget examples")
