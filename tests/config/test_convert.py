"""Types in words, and unions."""

from pathlib import Path
from typing import Any, Literal

import pytest

from expunge.config.convert import convert, describe
from expunge.config.yaml_source import Mark
from expunge.core.checks import ExpungeError


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (str, "text"),
        (float | None, "number or null"),
        (Literal["a", "b"], "a | b"),
        (tuple[str, ...], "list of text"),
        (tuple[int, ...] | None, "list of whole number or null"),
        (dict[str, Any], "mapping to anything"),
        (Path, "path"),
        (Mark, "Mark"),
    ],
)
def test_types_in_words(kind: Any, words: str) -> None:
    assert describe(kind) == words


def read(text: str, kind: Any, *, quoted: bool = False) -> Any:
    return convert(text, kind, ("key",), {("key",): Mark("command line", quoted=quoted)})


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", int | str, 3),
        ("3.5", int | float, 3.5),
        ("3", str | int, 3),  # the strictest reading first, whatever the order in the type
        ("x", int | str, "x"),
        ("true", bool | str, True),
        ("a", Literal["a"] | int, "a"),
        ("1,2", tuple[int, ...], (1, 2)),
        ("x/y", Path, Path("x/y")),
        ("auto", Literal["auto"] | float, "auto"),
        ("2", Literal[1, 2], 2),
    ],
)
def test_unions_and_lists(text: str, kind: Any, value: Any) -> None:
    found = read(text, kind)
    assert found == value and type(found) is type(value)


def test_quoted_text_is_text_where_text_may_stand() -> None:
    assert read("3", int | str, quoted=True) == "3"
    assert read("3", int, quoted=True) == 3


def test_a_type_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(ExpungeError, match=r"key must be Mark or null; got 'x' \(from command line\)"):
        read("x", Mark | None)
