"""Fields of dataclasses as a function's own keyword arguments."""

import inspect
from dataclasses import dataclass
from typing import Any

import expunge
from expunge.config.signature import shows_settings
from expunge.training.training_config import TrainingConfig
from expunge.training.unlearn_config import UnlearnConfig


@dataclass(frozen=True, kw_only=True)
class Small:
    """How much."""

    needed: int
    """What must be given."""
    size: float = 0.5
    """How large."""


def test_signature_and_help_show_every_field() -> None:
    @shows_settings(Small)
    def grown(what: str, *, by: int = 1, **settings: Any) -> dict[str, Any]:
        """Grow.

        Args:
            what: it is.
        """
        return settings

    parameters = inspect.signature(grown).parameters
    assert list(parameters) == ["what", "by", "needed", "size", "settings"]
    assert parameters["needed"].default is inspect.Parameter.empty and parameters["size"].default == 0.5
    assert "Settings:\n    needed: What must be given.\n    size: How large." in inspect.getdoc(grown)
    assert grown("a", size=2.0) == {"size": 2.0}


def test_unlearn_shows_all_that_it_takes() -> None:
    parameters = inspect.signature(expunge.unlearn).parameters
    assert {*UnlearnConfig.__dataclass_fields__, *TrainingConfig.__dataclass_fields__} < set(parameters)
    assert parameters["method"].default == "npo" and parameters["learning_rate"].annotation == float | None
