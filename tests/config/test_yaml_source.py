"""How configurations are written: YAML files and key=value."""

from pathlib import Path

import pytest

from expunge.config.yaml_source import Mark, read_file, read_override, read_yaml
from expunge.core.checks import ExpungeError


def failure(text: str, tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ExpungeError) as caught:
        read_file(path)
    return str(caught.value).replace(str(path), "run.yaml")


def test_values_are_text_with_line_and_quotes() -> None:
    tree, marks = read_yaml("a: 1e-5\nb:\n  c: 'no'\n  d: [x,\n    yes]\ne: {}\nf:\n", "run.yaml")
    assert tree == {"a": "1e-5", "b": {"c": "no", "d": ["x", "yes"]}, "e": {}, "f": ""}
    assert marks == {
        ("a",): Mark("run.yaml, line 1"),
        ("b", "c"): Mark("run.yaml, line 3", quoted=True),
        ("b", "d"): Mark("run.yaml, line 4"),
        ("b", "d", 0): Mark("run.yaml, line 4"),
        ("b", "d", 1): Mark("run.yaml, line 5"),
        ("e",): Mark("run.yaml, line 6"),
        ("f",): Mark("run.yaml, line 7"),
    }


def test_an_override_is_split_at_the_first_equals_sign() -> None:
    layer = read_override("columns.my-key=a=b")
    assert layer.tree == {"columns": {"my-key": "a=b"}}
    assert layer.marks == {("columns", "my-key"): Mark("command line")}


@pytest.mark.parametrize("text", ["seed", "=3", ""])
def test_an_override_needs_a_key_and_a_value(text: str) -> None:
    with pytest.raises(ExpungeError, match="is not a setting"):
        read_override(text)


def test_an_empty_override_is_no_silent_nothing() -> None:
    # `retain=$RETAIN` with an unset variable must not train without a retain set.
    with pytest.raises(ExpungeError, match=r"'retain=' has no value \(from command line\).*retain=null"):
        read_override("retain=")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the configuration file 'run.yaml' holds nothing; settings are lines such as 'seed: 1'."),
        ("# nothing\n", "the configuration file 'run.yaml' holds nothing; settings are lines such as 'seed: 1'."),
        ("- a\n", "the configuration file 'run.yaml' holds no mapping; settings are lines such as 'seed: 1'."),
        ("just text", "the configuration file 'run.yaml' holds no mapping; settings are lines such as 'seed: 1'."),
        ("seed: 1\nseed: 2\n", "run.yaml, line 2: 'seed' is given a second time (first: run.yaml, line 1)."),
        ("a: {b: 1,\n  b: 2}", "run.yaml, line 2: 'b' is given a second time (first: run.yaml, line 1)."),
        ("? [a, b]\n: 1", "run.yaml, line 1: a key must be a plain name."),
        ("a: &x {b: 1}\nc:\n  <<: *x", "run.yaml, line 3: a key must be a plain name."),
        ("model: ???", "run.yaml, line 1: ??? stands for a value that is still to be given."),
    ],
)
def test_files_that_cannot_be_meant(text: str, message: str, tmp_path: Path) -> None:
    assert failure(text, tmp_path) == message


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['true']", "!mine x", "!!python/name:os.system ''"])
def test_tags_that_could_run_code_are_refused(tag: str, tmp_path: Path) -> None:
    assert "plain values only" in failure(f"model: {tag}", tmp_path)


def test_an_alias_to_itself_ends(tmp_path: Path) -> None:
    assert "nest more than 32 deep" in failure("a: &a [*a]", tmp_path)


def test_broken_yaml_names_the_place(tmp_path: Path) -> None:
    message = failure("seed: 1\nmodel: [a, b\n", tmp_path)
    assert message.startswith("run.yaml: not valid YAML:") and "line 3" in message


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match="no configuration file at"):
        read_file(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("model: café".encode("latin-1"))
    with pytest.raises(ExpungeError, match="cannot read the configuration file"):
        read_file(tmp_path / "latin.yaml")
    with pytest.raises(ExpungeError, match="cannot read the configuration file"):
        read_file(tmp_path)


def test_question_marks_on_the_command_line() -> None:
    with pytest.raises(ExpungeError, match=r"command line: \?\?\? stands for a value"):
        read_override("model=???")


def test_aliases_of_aliases_are_bounded() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
    )
    with pytest.raises(ExpungeError, match=r"^run\.yaml, line \d+: more than 10000 values"):
        read_yaml(bomb, "run.yaml")


def test_deep_brackets_are_a_message() -> None:
    with pytest.raises(ExpungeError, match=r"^run\.yaml: values nest more than 32 deep"):
        read_yaml("[" * 5000, "run.yaml")


def test_control_characters_are_a_message() -> None:
    with pytest.raises(ExpungeError, match=r"^run\.yaml: not valid YAML: .*special characters"):
        read_yaml("a: \x1b[31m", "run.yaml")
