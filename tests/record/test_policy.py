"""Policies: the one that ships, one of your own, and mistakes in it."""

from pathlib import Path

import pytest

from expunge.attack.attack import DEFAULT, PLAIN, THRESHOLD
from expunge.core.checks import ExpungeError
from expunge.record.policy import Policy, load_policy


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_the_default_asks_for_the_default_attacks_at_their_threshold() -> None:
    policy = load_policy("default")
    assert policy.name == "default" and set(policy.attacks) == {PLAIN, *DEFAULT}
    assert policy.largest_threshold == THRESHOLD and policy.largest_share_leaking == 0


def test_one_of_your_own_is_a_file_and_named_after_it(tmp_path: Path) -> None:
    policy = load_policy(written(tmp_path, "attacks: [plain]\nout_of_scope:\n  model inversion: not asked for\n"))
    assert policy == Policy(name="mine", attacks=("plain",), out_of_scope={"model inversion": "not asked for"})
    assert load_policy(policy) is policy


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "attacks: [plain]\nleast_utilty: 0.9\n",
            "'least_utilty' (from {path}, line 2). Did you mean 'least_utility'?",
        ),
        ("attacks: [plain]\nleast_utility: much\n", "least_utility must be a number; got 'much' (from {path}, line 2)"),
        (
            "attacks: [plain]\nleast_utility: 90\n",
            "least_utility must be between 0 and 1; got 90.0. (from {path}, line 2)",
        ),
        ("attacks: [plain]\nreferences: [none]\n", "references"),
        ("attacks: [plain]\nretest_days: 0\n", "retest_days must be at least 1"),
        ("attacks: [plain]\nout_of_scope: {inversion: no}\n", "Did you mean 'model inversion'?"),
        ("least_utility: 0.9\n", "attacks must name at least one attack"),
        ("", "holds nothing"),
        ("attacks: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ExpungeError) as caught:
        load_policy(path)
    assert str(caught.value).startswith(f"the policy {path}: ") and said.format(path=path) in str(caught.value)


def test_an_unknown_policy_is_none(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match=r"no policy is called 'strict'\. A policy of your own is a file"):
        load_policy("strict")
    with pytest.raises(ExpungeError, match="no policy at"):
        load_policy(tmp_path / "strict.yaml")
