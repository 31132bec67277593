"""Ways of unlearning that are tried, with all settings but the learning rate, which is searched for each.

They are those that came nearest to a retain model in docs/experiments: after the attacks first, then as asked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.checks import require_names, unknown

CANDIDATES: Mapping[str, Mapping[str, Any]] = {
    # Withstands relearning: a small beta goes on until a row is far below the start model; retain rows hold the rest.
    "npo_small_beta": {"method": "npo", "beta": 0.02, "alpha": 3.0, "retain_per_forget": 3, "epochs": 10},
    # Reaches the retain model's forget set soonest, and keeps most.
    "wga": {"method": "wga"},
    "npo": {"method": "npo"},
}


def chosen(names: Sequence[str], *, adapter: str | None) -> dict[str, dict[str, Any]]:
    """Settings of the named candidates, through an adapter where one is named.

    Raises:
        ExpungeError: an unknown candidate.
    """
    require_names("candidates", names)
    for name in names:
        if name not in CANDIDATES:
            raise unknown("candidate", name, CANDIDATES)
    through = {} if adapter is None else {"adapter": adapter}
    return {name: {**CANDIDATES[name], **through, "checkpoint_every": 0} for name in names}
