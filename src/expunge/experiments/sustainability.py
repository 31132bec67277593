"""Sustainability: what is left of a model after one request to forget follows another?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.progress import Progress
from expunge.experiments._requests import Bench, Found, Requests


def sustainability(
    folder: str | Path = "expunge-sustainability",
    *,
    methods: Sequence[str] = ("grad_ascent", "grad_diff", "npo"),
    requests: int = 3,
    authors: int = 60,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Requests:
    """Forget in several requests, one after the other: what is left of the model, and does knowledge come back?

    Each request is a part of the embedded forget set, unlearned from the model that the one before left. After each
    request the forget measures look at all that was asked for so far, so that knowledge which comes back shows.

    Args:
        folder: where `sustainability.json` and `sustainability.png` go. Methods that an earlier run with the same
            settings has finished there are not run again.
        methods: unlearning methods, of those of the demonstration.
        requests: parts that the forget set is cut into, at least 2 and at most its authors.
        authors: invented authors, a tenth of whom are to be forgotten.
        seed: of everything.
        settings: training settings over those of the demonstration: `settings.epochs=5`.
        overwrite: replace an earlier result in `folder` that was made with other settings.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: the folder is in use, an unknown method, or a number out of range.

    Source: MUSE, arXiv:2407.06460, sustainability. Departures: invented authors instead of news.
    """
    bench = Bench("sustainability", Path(folder), methods, requests, authors, seed, overwrite, progress, settings or {})
    found: dict[str, Found] = {}
    for method in methods:
        found[method] = bench.known(method)
        if len(found[method]) == requests:
            continue
        model = bench.start()  # the models between are not kept, so a method that was stopped begins anew
        for n, part in enumerate(bench.parts, start=1):
            what = f"{method}, request {n} of {requests}"
            model = bench.unlearned(model, part, method, what)
            asked = [example for earlier in bench.parts[:n] for example in earlier]
            found[method][n] = bench.measured(model, asked, what)
        bench.keep(method, found[method])
    return bench.written(found, "requests")
