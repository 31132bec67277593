"""The demonstration, cut short: every part runs and what is shown is what was measured."""

from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import zoo
from expunge.core.checks import ExpungeError
from expunge.experiments import _demo as module
from expunge.experiments._demo import demo
from expunge.results.measures import Evaluation


def smaller(tokenizer: PreTrainedTokenizerBase, *, seed: int) -> PreTrainedModel:
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return zoo.tiny_model(seed=seed, vocab_size=len(tokenizer), max_position_embeddings=256, **special)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "LEARNING", {**module.LEARNING, "epochs": 0.2, "batch_size": 8, "warmup": 0})
    monkeypatch.setattr(module, "COMMON", {**module.COMMON, "epochs": 0.4})
    monkeypatch.setattr(module, "MEASURED_RETAIN", 12)
    monkeypatch.setattr(module, "tiny_model", smaller)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_every_part_runs(tmp_path: Path) -> None:
    told: list[str] = []
    made = demo(tmp_path / "out", methods=("npo",), authors=20, progress=lambda what, *_: told.append(what))
    assert [e.label for e in made.evaluations] == ["start model", "retain model", "npo"]
    assert all(made.evaluations[2][name].value is not None for name in module.SHOWN)
    assert made.evaluations[1]["forget_quality"].value == 1  # the retain model against itself
    page = made.report.read_text()
    assert "npo" in page and "<svg" in page
    stored = Evaluation.load(tmp_path / "out/npo-records/evaluation.json")
    assert stored["forget_probability"].value == made.evaluations[2]["forget_probability"].value
    assert "train the target model" in told and "npo: generating answers" in told
    told.clear()
    with pytest.raises(ExpungeError, match="in use"):
        demo(tmp_path / "out", methods=("npo",))
    demo(tmp_path / "out", methods=("npo",), authors=20, overwrite=True, progress=lambda what, *_: told.append(what))
    assert "train the target model" not in told  # target and retain model come from the cache


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_an_interrupted_demonstration_can_be_replaced(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(what: str, *_: object) -> None:
        if what == "npo":
            raise Stopped

    with pytest.raises(Stopped):
        demo(tmp_path / "out", methods=("npo",), authors=20, progress=stop)
    demo(tmp_path / "out", methods=("npo",), authors=20, overwrite=True)


def test_what_is_no_demonstration_stays(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"stage": "thesis", "arguments": {}}')
    with pytest.raises(ExpungeError, match="replaces earlier output of demo only"):
        demo(tmp_path, overwrite=True)
    with pytest.raises(ExpungeError, match=r"'nop'.*Did you mean 'npo'"):
        demo(tmp_path / "x", methods=("nop",))
