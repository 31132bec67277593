"""WAGLE's membership measure: do forget texts look less like members than retain texts?"""

from expunge.evaluation.bootstrap import interval
from expunge.evaluation.metrics._views import require_rows
from expunge.evaluation.metrics._wagle import membership
from expunge.results.measures import Definition, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text=(
        "P(score of a forget text > score of a retain text), plus half of ties; score: minus the mean of the lowest "
        "50 % of the token log-probabilities of prompt and answer"
    ),
    source="MIA of WAGLE, arXiv:2410.17509",
    better="higher",
    reads=("logprobs",),
)


def wagle_mia(forget: Records, retain: Records) -> Measure:
    """Probability that a forget text looks less like a member than a retain text, in [0, 1]; 1: always.

    The retain texts are members. Not the AUC of `mia`, which compares with texts that were never seen and has the
    opposite sense.

    Args:
        forget: forget texts, prompt and answer (answer kind `sequence`).
        retain: retain texts likewise.

    Raises:
        ExpungeError: no rows.

    Source: WAGLE, arXiv:2410.17509. Departures: none.
    """
    require_rows(forget=forget, retain=retain)
    value, shares, resampled = membership(forget, retain)
    return DEFINITION.measure(
        value,
        n=len(forget),
        interval=interval(resampled, [len(forget), len(retain)]),
        per_example=tuple(shares.tolist()),
        details={"n_retain": float(len(retain))},
    )
