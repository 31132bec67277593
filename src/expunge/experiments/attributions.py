"""The controlled experiment with attributions in place of the region that is known: does it pay to localize?

Source: Lee et al. 2025, arXiv:2505.16252, as in `locality`, which runs it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.config.signature import shows_settings
from expunge.experiments._locality.protocol import ATTRIBUTIONS, ORACLE, RANDOM
from expunge.experiments.locality import Locality, locality

ATTRIBUTED = tuple(name for name in ATTRIBUTIONS if name != RANDOM)


@shows_settings(locality)
def attributions(
    folder: str | Path = "attributions",
    *,
    methods: Sequence[str] = ("wga",),
    places: Sequence[str] = (ORACLE, RANDOM, *ATTRIBUTED),
    quality: bool = False,
    match_retain: bool = False,
    **settings: Any,
) -> Locality:
    """Unlearn where attributions point, in the right place and in a random one: does localization pay?

    The experiment `locality` with the places that attributions select; what is finished in `folder` is not run again.

    Example: expunge experiment attributions methods=npo seeds=3

    Args:
        folder: where curves and results go.
        methods: unlearning methods.
        places: where each of them unlearns: `oracle`, the region that holds the knowledge; `random`, a region outside
            it, which the others are compared with; an attribution, for what it selects on the start model.
        quality: measure forget quality and model utility too, for MU95; takes about three times as long.
        match_retain: also move the region, and three random ones, toward what the retain model does.
        settings: further ones of `locality`.
    """
    return locality(folder, methods=methods, places=places, quality=quality, match_retain=match_retain, **settings)
