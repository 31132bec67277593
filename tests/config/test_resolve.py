"""Configurations from defaults, files and the command line: which value wins, what it becomes, where it came from."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.config.resolve import Resolved, resolve
from expunge.config.settings import REQUIRED, Setting
from expunge.core.checks import ExpungeError, require_positive


@dataclass(frozen=True, kw_only=True)
class Base:
    """What is shared."""

    rate: float | None = None
    """Rate; null: the method's."""
    seed: int = 0
    """Seed."""

    def __post_init__(self) -> None:
        if self.rate is not None:
            require_positive("rate", self.rate, hint="Papers use 1e-5.")


@dataclass(frozen=True, kw_only=True)
class Config(Base):
    """What is set."""

    model: str
    """Model to take."""
    output: str = "runs/x"
    loss: str | None = None
    fast: bool = False
    schedule: Literal["linear", "cosine"] = "linear"
    names: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)


def written(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def made(*overrides: str, files: tuple[Path, ...] = (), **more: Any) -> Resolved[Config]:
    return resolve(Config, files=files, overrides=["model=m", *overrides], **more)


def failure(*overrides: str, files: tuple[Path, ...] = (), **more: Any) -> str:
    with pytest.raises(ExpungeError) as caught:
        made(*overrides, files=files, **more)
    return str(caught.value)


class TestPrecedence:
    def test_defaults_then_files_in_order_then_command_line(self, tmp_path: Path) -> None:
        first = written(tmp_path, "seed: 1\nrate: 0.1\noutput: a\n", "first.yaml")
        second = written(tmp_path, "rate: 0.2\noutput: b\n", "second.yaml")
        found = made("output=c", files=(first, second))
        assert (found.config.seed, found.config.rate, found.config.output, found.config.fast) == (1, 0.2, "c", False)
        assert found.origins["seed"] == f"{first}, line 1"
        assert found.origins["rate"] == f"{second}, line 1"
        assert found.origins["output"] == "command line"
        assert found.origins["fast"] == "default"

    def test_of_two_on_the_command_line_the_last_counts(self) -> None:
        assert made("seed=1", "seed=2").config.seed == 2

    def test_dotted_keys_join_a_mapping_and_each_part_keeps_its_origin(self, tmp_path: Path) -> None:
        file = written(tmp_path, "columns:\n  question: q\n  answer: a\n")
        found = made("columns.question=frage", files=(file,))
        assert found.config.columns == {"question": "frage", "answer": "a"}
        assert found.origins["columns.question"] == "command line"
        assert found.origins["columns.answer"] == f"{file}, line 3"
        assert found.origins["columns"] == f"{file}, line 3, command line"

    def test_a_whole_mapping_on_the_command_line_replaces_the_file_s(self, tmp_path: Path) -> None:
        file = written(tmp_path, "columns: {question: q, answer: a}\n")
        found = made("columns={question: z}", files=(file,))
        assert found.config.columns == {"question": "z"}
        assert "columns.answer" not in found.origins

    def test_mappings_of_two_files_join(self, tmp_path: Path) -> None:
        files = (written(tmp_path, "columns: {question: q}", "a"), written(tmp_path, "columns.answer: a", "b"))
        assert made(files=files).config.columns == {"question": "q", "answer": "a"}

    def test_lists_are_replaced_whole(self, tmp_path: Path) -> None:
        files = (written(tmp_path, "names: [a, b, c]", "a"), written(tmp_path, "names: [d]", "b"))
        found = made(files=files)
        assert found.config.names == ("d",)
        assert not any(name.startswith("names.") and "a, line" in origin for name, origin in found.origins.items())

    def test_dashes_and_underscores_are_the_same(self, tmp_path: Path) -> None:
        @dataclass(frozen=True, kw_only=True)
        class Dashed:
            """D."""

            batch_size: int = 1

        assert resolve(Dashed, overrides=["batch-size=2"]).config.batch_size == 2
        assert resolve(Dashed, files=[written(tmp_path, "batch-size: 3")]).config.batch_size == 3


class TestTypes:
    @pytest.mark.parametrize("text", ["1e-5", "0.00001", "1.0E-05"])
    def test_numbers_with_an_exponent_are_numbers_in_files_too(self, tmp_path: Path, text: str) -> None:
        # PyYAML by itself reads 1e-5 as text.
        assert made(files=(written(tmp_path, f"rate: {text}"),)).config.rate == 1e-5
        assert made(f"rate={text}").config.rate == 1e-5

    @pytest.mark.parametrize("text", ["no", "on", "yes", "1e3", "0123", "2024-01-01", "12:30"])
    def test_text_stays_as_it_is_written(self, tmp_path: Path, text: str) -> None:
        # PyYAML by itself reads no, on, yes as truth values, 0123 as 83, the others as date and number.
        found = made(files=(written(tmp_path, f"output: {text}\ncolumns: {{question: {text}}}"),)).config
        assert (found.output, found.columns["question"]) == (text, text)

    def test_a_whole_number_is_a_number(self) -> None:
        rate = made("rate=1").config.rate
        assert rate == 1.0 and isinstance(rate, float)

    @pytest.mark.parametrize(
        ("text", "value"), [("true", True), ("yes", True), ("ON", True), ("False", False), ("no", False)]
    )
    def test_truth_values(self, text: str, value: bool) -> None:
        assert made(f"fast={text}").config.fast is value

    @pytest.mark.parametrize("text", ["null", "~", "None", "none"])
    def test_nothing_for_a_number_that_may_be_missing(self, text: str) -> None:
        assert made(f"rate={text}").config.rate is None

    def test_none_is_a_name_where_a_name_may_stand(self) -> None:
        assert made("loss=none").config.loss == "none"
        assert made("loss=null").config.loss is None

    def test_quotes_make_text(self, tmp_path: Path) -> None:
        assert made(files=(written(tmp_path, 'loss: "null"'),)).config.loss == "null"
        assert made(files=(written(tmp_path, "loss:"),)).config.loss is None

    @pytest.mark.parametrize("text", ["names=a,b", "names=[a, b]", "names=[a, 'b']"])
    def test_lists(self, text: str) -> None:
        assert made(text).config.names == ("a", "b")

    def test_what_has_no_declared_type_is_read_as_json_would(self, tmp_path: Path) -> None:
        text = (
            "free: {date: '2024', year: 2024, share: 1e-1, on: true, off: no, nothing: null, deep: {list: [1, '[a]']}}"
        )
        expected = {
            "date": "2024",
            "year": 2024,
            "share": 0.1,
            "on": True,
            "off": "no",
            "nothing": None,
            "deep": {"list": [1, "[a]"]},
        }
        assert made(files=(written(tmp_path, text),)).config.free == expected
        assert made(text.replace(": ", "=", 1)).config.free == expected
        assert isinstance(made("free.year=2024").config.free["year"], int)

    def test_deep_dotted_keys(self) -> None:
        assert made("free.a.b=1", "free.a.c=x").config.free == {"a": {"b": 1, "c": "x"}}

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("rate=fast", "rate must be a number or null; got 'fast' (from command line)."),
            ("seed=1.0", "seed must be a whole number; got '1.0' (from command line)."),
            ("seed=null", "seed must be a whole number; got 'null' (from command line)."),
            ("fast=2", "fast must be true or false; got '2' (from command line)."),
            ("schedule=lin", "schedule must be linear or cosine; got 'lin' (from command line)."),
            ("columns=q", "columns must be a mapping to text; got 'q' (from command line)."),
            ("model.x=1", "model must be text; got a mapping (from command line)."),
            ("output=null", "output must be text; got 'null' (from command line)."),
            ("columns={question: [a]}", "columns.question must be text; got a list (from command line)."),
        ],
    )
    def test_wrong_types_name_key_expectation_value_and_origin(self, override: str, message: str) -> None:
        assert failure(override) == message

    def test_wrong_types_in_files_name_the_line(self, tmp_path: Path) -> None:
        file = written(tmp_path, "# settings\nseed: 1\nrate: fast\n")
        assert failure(files=(file,)) == f"rate must be a number or null; got 'fast' (from {file}, line 3)."

    @given(st.text(st.characters(max_codepoint=0xD7FF, exclude_characters="$")).filter(lambda s: s != "???"))
    def test_quoted_text_of_a_file_comes_through_unchanged(self, tmp_path_factory: Any, text: str) -> None:
        file = written(tmp_path_factory.mktemp("text"), f"loss: {json.dumps(text)}")
        assert made(files=(file,)).config.loss == text

    @given(st.floats(allow_nan=False, min_value=1e-300, max_value=1e300), st.integers())
    def test_numbers_come_through_unchanged(self, rate: float, seed: int) -> None:
        found = made(f"rate={rate!r}", f"seed={seed}").config
        assert (found.rate, found.seed) == (rate, seed)


class TestReferencesToOtherValues:
    def test_values_are_filled_in_from_all_layers(self, tmp_path: Path) -> None:
        file = written(tmp_path, "output: runs/${loss}-${seed}\ncolumns: {question: q, answer: '${columns.question}2'}")
        found = made("loss=npo", files=(file,)).config
        assert found.output == "runs/npo-0"  # seed is a default
        assert found.columns == {"question": "q", "answer": "q2"}

    def test_what_is_no_text_is_filled_in_as_it_would_be_written(self) -> None:
        assert made("output=${fast}-${rate}").config.output == "false-null"

    def test_errors_inside_mappings_name_their_origin(self, tmp_path: Path) -> None:
        file = written(tmp_path, "columns:\n  question: ${nothing}")
        assert "columns.question: its ${...} cannot be filled in" in failure(files=(file,))
        assert f"(from {file}, line 2)" in failure(files=(file,))

    def test_a_whole_value_keeps_its_type(self) -> None:
        assert made("seed=7", "rate=${seed}").config.rate == 7.0

    def test_a_dollar_can_be_written(self) -> None:
        assert made(r"output=cost\${x}").config.output == "cost${x}"

    def test_unknown_references_are_errors(self) -> None:
        assert failure("output=${sed}") == (
            "output: its ${...} cannot be filled in: 'sed' has no value; did you mean 'seed'? (from command line). "
            "Write \\${ for a plain ${."
        )

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("a${", "a ${ is not closed"),
            ("${output}", "'output' refers to itself"),
            ("x${loss}", "'output' refers to itself"),
            ("${nothing:1}", "'nothing:1' has no value"),
            ("${columns.nothing}", "'columns.nothing' has no value"),
            ("${output.nothing}", "'output.nothing' has no value"),
            ("x${columns}", "'columns' is not a single value"),
            ("${}", "'' has no value"),
        ],
    )
    def test_broken_circular_and_unknown_references_are_errors(self, text: str, why: str) -> None:
        message = failure(f"output={text}", "loss=<${output}>", "columns.question=q")
        assert "its ${...} cannot be filled in" in message and why in message

    def test_a_mapping_is_referred_to_as_a_whole_but_not_by_what_it_holds(self, tmp_path: Path) -> None:
        file = written(
            tmp_path, "columns: {question: q, answer: '${loss}'}\nfree: {same: '${columns}', of: ['${seed}', x]}"
        )
        found = made("loss=npo", files=(file,)).config
        assert found.free == {"same": {"question": "q", "answer": "npo"}, "of": ["0", "x"]}
        inside = written(tmp_path, "columns: {question: '${columns}'}", "inside.yaml")
        assert "columns.question" in (message := failure(files=(inside,))) and "refers to itself" in message


class TestUnknownKeys:
    def test_the_nearest_key_and_the_line_are_named(self, tmp_path: Path) -> None:
        file = written(tmp_path, "seed: 1\n\nschedul: cosine\n")
        message = failure(files=(file,))
        assert message.startswith(f"no setting is called 'schedul' (from {file}, line 3). Did you mean 'schedule'?")

    def test_on_the_command_line(self) -> None:
        assert "no setting is called 'sead' (from command line). Did you mean 'seed'?" in failure("sead=1")

    def test_before_what_is_missing(self) -> None:
        # A misspelled required key is both unknown and missing; the first says more.
        with pytest.raises(ExpungeError, match=r"no setting is called 'modle' .* Did you mean 'model'\?"):
            resolve(Config, overrides=["modle=m"])


class TestMissing:
    def test_all_that_is_missing_is_named_with_its_sentence(self) -> None:
        with pytest.raises(ExpungeError) as caught:
            resolve(Config)
        assert str(caught.value) == (
            "missing: model. Give them as key=value or in a --config file.\n  model=...  Model to take."
        )

    def test_it_is_said_before_anything_is_looked_up(self) -> None:
        def never(values: dict[str, Any]) -> list[Setting]:
            raise AssertionError("looked up")

        with pytest.raises(ExpungeError, match="missing: model"):
            resolve(Config, extra_settings=never)


class TestChecksOfTheDataclass:
    def test_its_message_gets_the_origin(self, tmp_path: Path) -> None:
        file = written(tmp_path, "rate: -1")
        expected = "rate must be above 0; got -1.0. Papers use 1e-5."
        assert failure(files=(file,)) == f"{expected} (from {file}, line 1)"
        assert failure("rate=-1") == f"{expected} (from command line)"


BETA = Setting(name="beta", type=float, default=0.1, default_origin="default of npo")
SIZE = Setting(name="size", type=int, default=REQUIRED, default_origin="default of npo")


class TestFurtherSettings:
    def test_they_are_handed_on_when_given(self) -> None:
        found = made("beta=0.5", extra_settings=lambda values: [BETA])
        assert found.extra == {"beta": 0.5}
        assert found.origins["beta"] == "command line"

    def test_they_stay_with_their_owner_when_not(self) -> None:
        found = made(extra_settings=lambda values: [BETA])
        assert found.extra == {}
        assert found.origins["beta"] == "default of npo"
        assert BETA in found.known

    def test_they_follow_from_values_already_converted(self) -> None:
        seen: list[dict[str, Any]] = []
        made("loss=npo", "rate=1", extra_settings=lambda values: seen.append(values) or [])
        assert seen[0]["loss"] == "npo" and seen[0]["rate"] == 1.0 and seen[0]["seed"] == 0

    def test_their_types_are_checked_too(self) -> None:
        message = failure("beta=big", extra_settings=lambda values: [BETA])
        assert message == "beta must be a number; got 'big' (from command line)."

    def test_unknown_keys_are_compared_with_them(self) -> None:
        message = failure("bta=0.5", extra_settings=lambda values: [BETA])
        assert "no setting is called 'bta' (from command line). Did you mean 'beta'?" in message

    def test_one_without_default_must_be_given(self) -> None:
        assert failure(extra_settings=lambda values: [SIZE]).startswith("missing: size.")
        assert made("size=3", extra_settings=lambda values: [SIZE]).extra == {"size": 3}

    def test_a_field_of_the_same_name_goes_first(self) -> None:
        found = made("seed=4", extra_settings=lambda values: [Setting(name="seed", type=str, default="x")])
        assert found.config.seed == 4 and found.extra == {}

    def test_of_two_with_one_name_the_first_counts(self) -> None:
        other = Setting(name="beta", type=str, default="x", default_origin="default of kl")
        assert made("beta=1", extra_settings=lambda values: [BETA, other]).extra == {"beta": 1.0}
