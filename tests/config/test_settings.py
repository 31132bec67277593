"""Settings: the fields of configuration dataclasses and the hyperparameters of functions."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from expunge.config.settings import REQUIRED, parameters, settings
from expunge.data.data_config import DataConfig
from expunge.training.training_config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Base:
    """What is shared. And more about it."""

    seed: int = 0
    """Of everything
    that is drawn."""
    undocumented: str = "x"
    names: dict[str, str] = field(default_factory=dict)
    """Names."""


@dataclass(frozen=True, kw_only=True)
class Config(Base):
    """What is set."""

    model: str
    """Model."""
    seed: int = 1
    """Of this alone."""


def test_own_fields_come_first_with_types_defaults_and_sentences() -> None:
    found = settings(Config)
    assert [(s.name, s.type, s.default, s.doc, s.group) for s in found] == [
        ("seed", int, 1, "Of this alone.", "What is set"),
        ("model", str, REQUIRED, "Model.", "What is set"),
        ("undocumented", str, "x", "", "What is shared"),
        ("names", dict[str, str], {}, "Names.", "What is shared"),
    ]


def test_a_sentence_over_two_lines_is_one() -> None:
    assert settings(Base)[0].doc == "Of everything that is drawn."


@pytest.mark.parametrize("cls", [DataConfig, TrainingConfig])
def test_every_field_that_the_verbs_share_is_explained(cls: type) -> None:
    found = settings(cls)
    assert len(found) == len(cls.__dataclass_fields__) > 5
    assert [s.name for s in found if not s.doc.endswith(".")] == []


def test_parameters_of_a_function() -> None:
    def loss(logprobs: Any, *, beta: float = 0.1, size: int, loose=None) -> None: ...  # type: ignore[no-untyped-def]

    found = {
        s.name: s for s in parameters(loss, owner="npo", beside={"layer": None, "where": "here", "beta": "not this"})
    }
    assert {name: (s.type, s.default) for name, s in found.items()} == {
        "beta": (float, 0.1),
        "size": (int, REQUIRED),
        "loose": (Any, None),
        "layer": (Any, None),
        "where": (str, "here"),
    }
    assert found["beta"].default_origin == "default of npo"
    assert found["layer"].group == "Settings of npo"


def test_parameters_are_explained_by_the_docstring_of_their_function() -> None:
    def loss(logprobs: Any, *, beta: float = 0.1, size: int = 2, bare: int = 1) -> None:
        """A loss.

        Args:
            logprobs: of the answer.
            beta: above 0,
                and over two lines: of text.
            size: `some` size.

        Raises:
            bare: no argument.
        """

    docs = {s.name: s.doc for s in parameters(loss, owner="own")}
    assert docs == {"beta": "Above 0, and over two lines: of text.", "size": "`some` size.", "bare": ""}
