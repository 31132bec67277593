"""Help: every setting of every verb, with type, default and sentence."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from expunge.cli.help import shown
from expunge.cli.verbs import data, demo, evaluate, report, train, unlearn
from expunge.config.convert import describe
from expunge.config.settings import settings

VERBS = {verb.name: verb for verb in (demo.VERB, train.VERB, unlearn.VERB, evaluate.VERB, report.VERB, data.SHOW_MASK)}


def flat(text: str) -> str:
    """Text without its line ends."""
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("name", VERBS)
def test_every_setting_is_listed_with_type_and_sentence(name: str, call: Callable[..., Any]) -> None:
    code, out, err = call(*name.split(), "--help")
    assert (code, err) == (0, "")
    assert f"Usage: expunge {name} " in out and flat(VERBS[name].about) in flat(out)
    known = settings(VERBS[name].config)
    assert len(known) >= 4
    for setting in known:
        assert f"\n  {setting.name}: {describe(setting.type)}" in out
        assert setting.doc and setting.doc in flat(out), f"{setting.name} has no sentence"
        assert setting.group in flat(out)


@pytest.mark.parametrize("name", VERBS)
def test_every_flag_is_listed(name: str, call: Callable[..., Any]) -> None:
    out = call(*name.split(), "-h").out
    for flag in (*VERBS[name].flags, "config", "help"):
        assert f"\n  --{flag.replace('_', '-')}" in out


def test_defaults_are_shown_and_required_settings_come_first(call: Callable[..., Any]) -> None:
    out = call("unlearn", "--help").out
    assert "\n  batch_size: whole number or null\n" in out
    assert "\n  schedule: linear | constant | cosine = linear\n" in out
    assert "\n  learning_rate: number or null\n" in out
    assert out.index("model: text, required") < out.index("method: text = npo")


def test_a_method_s_own_settings_are_listed_once_it_is_named(call: Callable[..., Any]) -> None:
    assert "steering" not in call("unlearn", "--help").out
    out = call("unlearn", "method=rmu", "--help").out
    assert "Settings of rmu" in out and "\n  coefficient: number = 20.0\n" in out and "\n  layer: anything" in out


def test_help_goes_before_everything_else(call: Callable[..., Any]) -> None:
    assert call("unlearn", "seed=x", "--help").code == 0


def test_a_wide_terminal_is_used_and_a_narrow_one_kept(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns, most in (("200", 120), ("70", 70)):
        monkeypatch.setenv("COLUMNS", columns)
        longest = max(map(len, call("unlearn", "--help").out.splitlines()[1:]))
        assert most - 20 < longest <= most


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1e-5, "1e-05"),
        ((), "[]"),
        (("a", "b"), "a,b"),
        ({"a": None}, "{a: null}"),
        ("x", "x"),
    ],
)
def test_values_as_they_could_be_written(value: Any, text: str) -> None:
    assert shown(value) == text
