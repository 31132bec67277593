"""Rules that measure: told at the start what is not available, never passing over a measure without a value."""

from pathlib import Path
from typing import Any

import pytest

import expunge
import zoo
from expunge import stop_rules as _stopping
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.results.measures import Evaluation, Measure
from expunge.stop_rules import doubt_of, measured_rule
from expunge.training.stopping import NoValue

SHORT = Corpus({split: (Example(kind="text", completion="Ada lives."),) for split in ("forget", "holdout")}, "short")


def rule(*conditions: str, corpus: Corpus | None = None, **changes: Any) -> Any:
    return measured_rule(zoo.tiny_model(), zoo.tokenizer(), corpus or zoo.corpus(), conditions, rows=2, **changes)


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        (("forget_probability<=0", "extraction_likelihod<=0.1"), {}, "no measure of the suite"),
        (("forget_probability<=0", "extraction_likelihood<=0.1"), {}, "only by a suite with this metric, such as tdec"),
        (
            ("memorization_accuracy<=0", "extraction_likelihood<=0.1"),
            {"suite": "tdec", "corpus": SHORT},
            "EL_10 needs more than 10",
        ),
        (
            ("memorization_accuracy<=0", "extraction_likelihood<=unseen"),
            {"suite": "tdec", "corpus": SHORT},
            "EL_10 needs more",
        ),
        (("forget_probability<=0", "forget_quality>=0.05"), {}, "forget_quality is not available"),
    ],
)
def test_a_measure_that_cannot_be_had_is_told_before_training_wherever_it_stands(
    given: tuple[str, ...], more: dict, message: str
) -> None:
    with pytest.raises(ExpungeError, match=message):
        rule(*given, **more)


def test_where_the_start_model_stands_is_told_with_progress() -> None:
    told: list[str] = []
    numbers: list[str] = []

    def progress(what: str, done: int, total: int, text: str) -> None:
        told.append(what)
        numbers.append(text)

    found = rule("forget_probability<=0.1", progress=progress)
    assert found.start.startswith("forget_probability 0.0") and "(wanted <=0.1)" in found.start and found.met
    assert not rule("forget_probability<=0").met
    assert found.about == {"conditions": ["forget_probability<=0.1"], "suite": "default", "rows": 2}
    assert told and all(what.startswith("to stop, start model: ") for what in told)
    told.clear()
    assert found(zoo.tiny_model(), 3) is not None and all(what.startswith("to stop: ") for what in told) and told
    # Each look ends with what was measured beside what is wanted, and keeps it for the manifest.
    assert numbers[-1] == f"forget_probability {found.seen['forget_probability']:.4g} (wanted <=0.1)"


def test_a_level_of_unseen_text_that_may_be_no_goal_is_doubted() -> None:
    assert doubt_of({"a": 0.1}, 8) == "" and "a of it is 0" in doubt_of({"a": 0.0, "b": 1.0}, 8)
    both = doubt_of({"a": 0.0}, 1)
    assert "is 0" in both and "rests on 1 text." in both and "a of it is 0" not in doubt_of({"a": 0.1}, 7)
    found = rule("memorization_accuracy<=unseen", suite="tdec", corpus=SHORT)
    assert "rests on 1 text." in found.doubt and not rule("forget_probability<=0").doubt


def test_a_value_that_goes_missing_during_a_run_ends_it_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float | None] = [0.9, 0.8, None, 0.7, 0.6]

    def evaluate(*_: Any, metrics: list[str], **__: Any) -> Evaluation:
        value = looks.pop(0)
        made = Measure(value=value, better="lower", definition="", source="", n=1, note="No embedder was at hand.")
        return Evaluation(dict.fromkeys(metrics, made))

    def run(**changes: Any) -> expunge.Run:
        return expunge.unlearn(
            zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), method="grad_ascent", epochs=3, batch_size=3,
            adapter="lora", output_dir=tmp_path / "run", stop=stop, **changes,
        )  # fmt: skip

    monkeypatch.setattr(_stopping, "evaluate", evaluate)
    stop = rule("forget_rouge<=0.3")
    with pytest.raises(NoValue, match=r"now it has none. No embedder was at hand.*last good weights are in .*-4"):
        run()
    assert (tmp_path / "run/checkpoints/checkpoint-4").is_dir()
    stop = rule("forget_rouge<=0.3")
    assert [row["step"] for row in run(resume=True).history] == [1, 2, 3, 4, 5, 6] and not looks
