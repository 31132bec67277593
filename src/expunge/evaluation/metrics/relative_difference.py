"""How far is a measure from the retain model's, in percent of it?"""

from dataclasses import replace
from typing import Any

import numpy as np

from expunge.core import catalogue
from expunge.core.checks import ExpungeError
from expunge.evaluation.bootstrap import interval
from expunge.evaluation.metrics._views import TINY, in_order, per_example, require_rows
from expunge.results.measures import Definition, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text="100 * (m - m_retain) / (m_retain + 1e-10), m the mean of a metric over the same examples under either model",
    source="rel_diff of open-unlearning, arXiv:2506.12618",
    better="near",
    reads=("logprobs", "avg_loss"),
)

_FAR = 1000.0


def relative_difference(records: Records, reference: Records, *, of: str = "probability") -> Measure:
    """Relative difference of a mean to the retain model's, in percent; 0 best, no bounds above.

    Args:
        records: one row an example, under the model.
        reference: the same examples under the retain model.
        of: name of a metric that is a mean over one view: `probability`, `extraction_strength`, `rouge`, ...

    Returns:
        The difference; both means in `details`. The interval resamples examples, together for both models.

    Raises:
        ExpungeError: no rows, different examples, or a metric that is no mean over one view.

    Source: open-unlearning, arXiv:2506.12618. Departures: there of aggregates alone; here with an interval.
    """
    require_rows(records=records, reference=reference)
    metric = catalogue.resolve("metrics", of)
    if catalogue.needs(metric) != ("records",):
        raise ExpungeError(f"a relative difference is taken of a mean over one view; '{of}' is none.")
    ours, theirs = metric(in_order(records)), metric(in_order(reference))
    per_example(in_order(records), in_order(reference), names=("this model", "the retain model"))
    a, b = np.array(ours.per_example), np.array(theirs.per_example)

    def relative(mean: Any, other: Any) -> np.ndarray:
        return np.asarray(100 * (mean - other) / (other + TINY))

    value = float(relative(a.mean(), b.mean()))
    note = (
        f"The retain model's {of} is {b.mean():.2g}, so that small differences look large; compare the values."
        if abs(value) > _FAR
        else ""
    )
    return replace(DEFINITION, text=f"{DEFINITION.text}. m: {of}").measure(
        value,
        n=len(a),
        target=0.0,
        interval=interval(lambda w: relative(w @ a / len(a), w @ b / len(b)), [len(a)]),
        details={"value": float(a.mean()), "retain_model_value": float(b.mean())},
        note=note,
    )
