"""Words of a command line, sorted."""

from typing import Any

import pytest

from expunge.cli.arguments import Arguments, parse
from expunge.config.settings import Setting
from expunge.core.checks import ExpungeError

KNOWN = {
    name: Setting(name=name, type=kind)
    for name, kind in {"seed": int, "batch_size": int, "fast": bool, "model": str, "columns": dict[str, str]}.items()
}


def parsed(*words: str, **how: Any) -> Arguments:
    return parse(words, known=KNOWN, flags=("dry_run", "overwrite"), **how)


def failure(*words: str) -> str:
    with pytest.raises(ExpungeError) as caught:
        parsed(*words)
    return str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["batch_size=4"],
        ["batch-size=4"],
        ["--batch-size=4"],
        ["--batch_size", "4"],
        ["--batch-size", "4"],
    ],
)
def test_all_forms_are_the_same(words: list[str]) -> None:
    found = parsed(*words)
    assert [o.replace("-", "_") for o in found.overrides] == ["batch_size=4"]


def test_values_stay_as_they_are() -> None:
    words = ["--model", "my-model/--x", "--columns.my-key", "a=b", "--seed", "-1", "model=a b=c"]
    assert parsed(*words).overrides == ["model=my-model/--x", "columns.my-key=a=b", "seed=-1", "model=a b=c"]


def test_files_flags_and_order() -> None:
    found = parsed(
        "--config", "a.yaml", "seed=1", "--dry-run", "--config=b.yaml", "config=c.yaml", "seed=2", "--overwrite"
    )
    assert found.files == ["a.yaml", "b.yaml", "c.yaml"]
    assert found.overrides == ["seed=1", "seed=2"]
    assert found.flags == {"dry_run", "overwrite"}


def test_a_flag_may_be_said_to_be_off() -> None:
    assert parsed("overwrite=true").flags == {"overwrite"}
    assert parsed("--overwrite=false").flags == set()


def test_true_or_false_may_stand_alone() -> None:
    assert parsed("--fast", "seed=1").overrides == ["fast=true", "seed=1"]
    assert parsed("--fast", "--seed", "1").overrides == ["fast=true", "seed=1"]
    assert parsed("--fast").overrides == ["fast=true"]
    assert parsed("--fast", "no", "--seed", "1").overrides == ["fast=no", "seed=1"]


def test_unknown_keys_are_left_to_the_configuration() -> None:
    # They may be hyperparameters of a method.
    assert parsed("--beta", "0.1", "gama=2").overrides == ["beta=0.1", "gama=2"]


def test_positional_words() -> None:
    found = parsed("runs/a", "--seed", "1", "runs/lr=1e-3", "seed=2", positional=True)
    assert found.positional == ["runs/a", "runs/lr=1e-3"]
    assert found.overrides == ["seed=1", "seed=2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["npo"], "'npo' is neither key=value nor --key value. A key goes in front of it: key=npo"),
        (["-x"], "'-x' is neither key=value nor --key value."),
        (["--seed"], "--seed needs a value: seed=..."),
        (["--seed", "--dry-run"], "--seed needs a value: seed=..."),
        (["--model", "seed=1"], "--model needs a value: model=..."),
        (["--beta"], "--beta needs a value: beta=..."),
        (["--config"], "--config needs a value: config=..."),
        (["--overwirte"], "no setting is called 'overwirte' (from command line). Did you mean 'overwrite'?"),
        (["--overwrite=maybe"], "--overwrite takes no value; got 'maybe'."),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    assert failure(*words).startswith(message)
