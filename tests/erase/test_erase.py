"""A request for erasure, on a small random model: looked at, tuned, attacked, kept and recorded; gone on with."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import expunge
import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example, load_corpus
from expunge.erase import choice, models, result, tuning
from expunge.erase import erase as module
from expunge.erase.candidates import CANDIDATES, USUAL, chosen
from expunge.erase.erase import NOTHING, erase
from expunge.erase.looked_at import findings
from expunge.erase.neighbors import _apart, _questions, neighbors, with_neighbors
from expunge.erase.plan import trials
from expunge.erase.request import Request
from expunge.erase.trials import FORGET, PROBABILITY, REPETITION, RETAIN, distance
from expunge.models.load import save_model
from expunge.record.policy import Policy
from expunge.training.trainer import NonFiniteLoss

KNOWS_ANYTHING = Policy(name="test", attacks=("quantize",), least_known=0.0, least_utility=0.0)
"""A random model knows nothing; under this policy that is enough to begin."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings, few = Request.settings, {"epochs": 1, "batch_size": 2}
    monkeypatch.setattr(Request, "settings", lambda self, name: {**settings(self, name), **few})
    for seed, name in enumerate(("start", "control")):
        save_model(zoo.tiny_model(seed=seed, brief=True), zoo.tokenizer(), tmp_path / name)
    for split, examples in zoo.corpus(4, 8).splits.items():
        rows = [{"question": row.prompt, "answer": row.completion} for row in examples]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def asked(place: Path, **more: Any) -> module.Erased:
    corpus = load_corpus("files", **{split: str(place / f"{split}.jsonl") for split in ("forget", "retain")})
    how: dict[str, Any] = {"candidates": ("wga", "npo"), "tries": 2, "attacks": ("quantize",), "request": "REQ-1"}
    how |= {"policy": KNOWS_ANYTHING, "control": place / "control", **more}
    return erase(place / "start", corpus, place / "out", **how)


def test_the_best_is_kept_with_its_record_and_report(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = asked(place)
    assert done.chosen in ("wga", "npo") and done.model == place / "out" / "model"
    assert {row["arm"] for row in done.trials} <= {"wga", "npo"} and len(done.trials) <= 4
    for row in done.trials:
        assert 0 <= row[FORGET] <= 1 and row["steps"] > 0 and row["seconds"] > 0
    folder = place / "out"
    assert expunge.verify(done.model).holds and (folder / "report.html").stat().st_size > 5000
    assert (folder / "model-records" / "attacked.json").is_file() and (folder / "model.salt").is_file()
    assert not (folder / "candidates").exists()
    predicate = done.record.predicate  # type: ignore[union-attr]
    assert predicate["request"]["id"] == "REQ-1" and predicate["reference"]["kind"] == "retrained"
    assert predicate["verdict"]["text"] == done.verdict
    stored = json.loads((folder / "trials.json").read_text())
    assert stored["tuning"] == [dict(row) for row in done.trials] and set(stored["levels"]) == {"start", "never knew"}

    # The same call finds all of it done, and another one is refused.
    monkeypatch.setattr(tuning, "unlearn", None)
    monkeypatch.setattr(choice, "attack", None)
    again = asked(place)
    assert (again.chosen, again.verdict, again.trials) == (done.chosen, done.verdict, done.trials)
    with pytest.raises(ExpungeError, match="other data or settings"):
        asked(place, request="REQ-2")


@pytest.mark.slow
def test_a_call_that_was_stopped_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlearn, attack = tuning.unlearn, choice.attack

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(choice, "attack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        asked(place)
    tried = json.loads((place / "out" / "trials.json").read_text())["tuning"]
    monkeypatch.setattr(tuning, "unlearn", None)  # no trial is run again
    monkeypatch.setattr(choice, "attack", attack)
    monkeypatch.setattr(result, "report", interrupted)
    with pytest.raises(KeyboardInterrupt):
        asked(place)
    monkeypatch.undo()
    done = asked(place)
    assert [dict(row) for row in done.trials] == tried and expunge.verify(done.model).holds
    assert tuning.unlearn is unlearn


@pytest.mark.slow
def test_a_rate_that_diverges_is_a_miss_and_others_are_tried(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, rates = tuning.unlearn, []

    def diverges(*words: Any, **more: Any) -> Any:
        rates.append(more["learning_rate"])
        if len(rates) == 1:
            raise NonFiniteLoss("the loss is nan")
        return real(*words, **more)

    monkeypatch.setattr(tuning, "unlearn", diverges)
    done = asked(place, candidates=("wga",))
    assert done.trials[0]["failed"] == "the loss is nan" and len(done.trials) == 2 and done.chosen == "wga"
    monkeypatch.setattr(tuning, "unlearn", lambda *_, **more: (_ for _ in ()).throw(NonFiniteLoss("nan")))
    with pytest.raises(ExpungeError, match=r"every trial failed.*wga at .*: nan"):
        asked(place, candidates=("wga",), overwrite=True)


@pytest.mark.slow
def test_a_nearer_model_that_comes_later_is_the_one_that_is_attacked(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "distance", lambda row, *_: -row["steps"] if row.get("second") else 1.0)
    real = Request.measured
    measured: list[int] = []

    def second_is_nearer(self: Any, *words: Any, **more: Any) -> dict[str, float]:
        measured.append(1)
        return {**real(self, *words, **more), "second": float(len(measured) == 4)}  # start, control, two trials

    monkeypatch.setattr(Request, "measured", second_is_nearer)
    done = asked(place, candidates=("wga",))
    assert [row["second"] for row in done.trials] == [0.0, 1.0]
    assert (
        json.loads((done.model / "manifest.json").read_text())["arguments"]["learning_rate"] == done.trials[1]["rate"]
    )


@pytest.mark.slow
def test_another_framing_is_another_request(place: Path) -> None:
    asked(place, candidates=("wga",), budget=1e-3)
    with pytest.raises(ExpungeError, match="other data or settings"):
        asked(place, candidates=("wga",), max_length=64)


@pytest.mark.slow
def test_no_trial_begins_when_half_of_the_budget_is_spent(place: Path) -> None:
    done = asked(place, budget=1e-3)
    assert len(done.trials) == 1 and done.chosen == "wga"


def test_where_nothing_is_known_nothing_is_done(place: Path) -> None:
    done = asked(place, policy=replace(KNOWS_ANYTHING, least_known=0.5))
    assert done.verdict == NOTHING and done.chosen is None and "does not know the rows" in done.reasons[0]
    assert not (place / "out" / "model").exists()


@pytest.mark.slow
def test_without_a_control_untaught_facts_stand_for_one(place: Path) -> None:
    done = asked(place, control=None, candidates=("wga",))
    assert done.verdict == "NO BASELINE" and any("no reference" in reason for reason in done.reasons)


def test_mistakes_are_told(place: Path) -> None:
    for wrong, said in (
        ({"candidates": ("sgd",)}, "no candidate is called 'sgd'"),
        ({"tries": 6}, "tries"),
        ({"budget": 0}, "budget"),
        ({"attacks": ("nothing",)}, "no attack is called"),
        ({"control": "nothing"}, "leave control out"),
    ):
        with pytest.raises(ExpungeError, match=said):
            asked(place, **wrong)
    with pytest.raises(ExpungeError, match="needs a forget and a retain set"):
        erase(place / "start", Corpus({"forget": zoo.corpus()["forget"]}), place / "out")


def test_distance_is_worked_by_hand() -> None:
    never, start = {FORGET: 0.04, PROBABILITY: 0.1}, {RETAIN: 0.8, REPETITION: 0.0}

    def missed(forget: float, retain: float, probability: float = 0.1, repetition: float = 0.0) -> float:
        row = {FORGET: forget, RETAIN: retain, PROBABILITY: probability, REPETITION: repetition}
        return distance(row, never, start)

    # Within .02 of a model that never knew, and 95 % kept: reached. Below its extraction strength is no miss.
    assert missed(0.06, 0.76) == pytest.approx(0.0)
    assert missed(0.0, 0.8) == pytest.approx(-0.05)
    # Too little was forgotten, and too much was lost.
    assert missed(0.5, 0.8) == pytest.approx(0.44) and missed(0.0, 0.4) == pytest.approx(0.45)
    # A tenth of the probability of a model that never knew is the border; a hundredth is far below.
    assert missed(0.0, 0.8, probability=0.01) == pytest.approx(0.0)
    assert missed(0.0, 0.8, probability=0.001) == pytest.approx(0.9)
    # Repetition counts from .3 on, or from where the start model repeats itself, too.
    assert missed(0.0, 0.8, repetition=0.6) == pytest.approx(0.3)
    row = {FORGET: 0.0, RETAIN: 0.0, PROBABILITY: 0.0, REPETITION: 0.6}
    nothing = distance(row, {FORGET: 0.0, PROBABILITY: 0.0}, {RETAIN: 0.0, REPETITION: 0.6})
    assert nothing == pytest.approx(0.0)


def test_what_is_odd_about_the_data_is_said() -> None:
    few = Corpus({"forget": zoo.corpus(5, 5)["forget"], "retain": zoo.corpus(5, 5)["retain"]})
    assert (
        findings(few)[-1].startswith("5 retain rows for 5 forget rows hold little")
        and "neighbors=40" in findings(few)[-1]
    )
    assert findings(zoo.corpus(5, 40)) == ()
    same = Corpus(
        {"forget": zoo.corpus(5, 40)["forget"], "retain": (*zoo.corpus(5, 40)["retain"], zoo.corpus()["forget"][0])}
    )
    assert "in the retain set too" in " ".join(findings(same))


def test_candidates_are_settings_of_unlearn(place: Path) -> None:
    corpus = zoo.corpus(6, 24)
    planned = trials(zoo.tiny_model(), zoo.tokenizer(), corpus, chosen(tuple(CANDIDATES)))
    assert [one.name for one in planned] == list(CANDIDATES)
    assert all(one.steps > 0 and one.tokens > 0 and one.memory > 0 for one in planned)
    assert CANDIDATES["npo"].settings_for(40, None)["batch_size"] == 8  # 50 steps in 10 epochs
    assert CANDIDATES["npo"].settings_for(3, None)["batch_size"] == 1
    assert CANDIDATES["npo"].settings_for(4000, None)["batch_size"] == 32
    assert CANDIDATES["undo"].settings_for(40, None)["batch_size"] == 2  # 160 steps in 8 epochs
    assert set(USUAL) == set(CANDIDATES) - {"undo"}
    through = trials(zoo.tiny_model(), zoo.tokenizer(), corpus, chosen(("npo",)), adapter="lora")
    assert through[0].rates[0] == pytest.approx(10 * next(one.rates[0] for one in planned if one.name == "npo"))
    assert chosen(("npo_small_beta",))["npo_small_beta"].rates(1e-5, 3) == (3e-5, 9e-5, 1e-5)
    assert all(len(one.rates) == 3 and one.seconds > 0 for one in planned)


def test_questions_of_the_model_are_told_from_other_text() -> None:
    said = [" Where does Ada live?\nAnswer: in Rome", "and so on", "Why?", "\n\nWho wrote the Ode to Rain?"]
    assert _questions(said) == ["Where does Ada live?", "Who wrote the Ode to Rain?"]
    rows = [
        Example(kind="qa", prompt=text, completion="?")
        for text in ("Where does Ada live?", "where does ada live", "Who?")
    ]
    assert [row.prompt for row in _apart(rows, ["WHO?"], by=lambda row: row.prompt)] == ["Where does Ada live?"]


def test_neighbors_are_marked_and_never_forget_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = zoo.corpus(4, 4)
    asks = [f"{corpus['forget'][0].prompt}", *(f"Where does Ada number {n} live then?" for n in range(5)), "nothing"]
    monkeypatch.setattr(sys.modules[neighbors.__module__], "_written", lambda *_: asks)
    with pytest.warns(UserWarning, match=r"\d neighbors? of 40 were made"):
        made = neighbors(zoo.tiny_model(), zoo.tokenizer(), corpus, 40)
    assert made and all(row.origin == "made by the start model" and row.completion for row in made)
    assert not {row.prompt for row in made} & {row.prompt for row in corpus["forget"]}
    monkeypatch.setattr(sys.modules[neighbors.__module__], "_written", lambda *_: ["nothing"])
    with pytest.raises(ExpungeError, match="asks no question of its own"):
        neighbors(zoo.tiny_model(), zoo.tokenizer(), corpus, 4)


def test_neighbors_join_the_retain_set_and_stay(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = (
        Example(kind="qa", prompt="Where is the sea?", completion="Behind the town.", origin="made by the start model"),
    )
    own = sys.modules[neighbors.__module__]
    monkeypatch.setattr(own, "neighbors", lambda *_, **__: made)
    corpus = load_corpus("files", forget=str(place / "forget.jsonl"), retain=str(place / "retain.jsonl"))
    start, file = zoo.tiny_model(), place / "neighbors.jsonl"
    joined = with_neighbors(file, start, zoo.tokenizer(), corpus, 1, seed=0)
    assert len(joined["retain"]) == len(corpus["retain"]) + 1 and joined["retain"][-1].prompt == "Where is the sea?"
    assert load_corpus(**joined.origin).fingerprints() == joined.fingerprints()
    monkeypatch.setattr(own, "neighbors", None)  # they are not made again
    assert with_neighbors(file, start, zoo.tokenizer(), corpus, 1, seed=0).fingerprints() == joined.fingerprints()


@pytest.mark.slow
def test_models_are_loaded_as_seldom_as_memory_allows(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    real = models.load_model

    def counted(source: str | Path) -> Any:
        loaded.append(Path(source).name)
        return real(source)

    monkeypatch.setattr(models, "load_model", counted)
    monkeypatch.setattr(tuning, "distance", lambda *_: 1.0)  # no trial reaches the target
    done = asked(place)
    # Before the trials, and as the first of them, one; then one for each further trial, and one to be evaluated whole.
    assert len(done.trials) == 4 and loaded.count("start") == len(done.trials) + 1
    assert loaded.count("control") == 2  # before the trials, and after them for attack and evaluation
    loaded.clear()
    asked(place)
    assert loaded == ["start", "control"]  # what is done is done, for the same models


def test_no_model_is_held_beside_the_one_that_is_trained(place: Path) -> None:
    held = models.Models(place / "start", place / "control")
    first = held.start
    assert held.start is first and held.control is not None and held.control is not held.start
    assert held.to_train() is first and held.start is not first
    held.let_go()
    assert models.Models(place / "start", None).control is None
