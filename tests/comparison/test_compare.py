"""Comparing runs: curves from checkpoints and from mixtures, records reused, seeds joined, errors that help."""

import shutil

import numpy as np
import pytest

import zoo
from expunge.comparison import trace
from expunge.comparison.compare import compare, compared
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.data.corpus import load_corpus
from expunge.evaluation.evaluate import evaluate
from expunge.evaluation.export import export
from expunge.models.load import load_model
from expunge.results.curves import Comparison, Curve, Point


@pytest.fixture
def collected(monkeypatch):
    """How often a model was run."""
    calls = []
    original = trace.collect

    def counted(*arguments, **settings):
        calls.append(1)
        return original(*arguments, **settings)

    monkeypatch.setattr(trace, "collect", counted)
    return calls


class TestCheckpoints:
    @pytest.mark.slow
    def test_seeds_are_joined_and_records_reused(self, compared_runs, collected, tmp_path):
        runs = [compared_runs / "npo-s0", compared_runs / "npo-s1"]
        found = compare(runs, retain=compared_runs / "retain")
        assert [e.label for e in found.evaluations] == ["start model", "retain model", "npo (2 seeds)"]
        assert [(c.label, c.seed, [p.name for p in c.points]) for c in found.curves] == [
            (f"npo-s{seed}", seed, ["start model", "step 1", "step 2", "step 3"]) for seed in (0, 1)
        ]
        assert len(collected) == 8  # start, retain and three models a run
        joined = found["npo (2 seeds)"]
        last = [curve.points[-1].fs for curve in found.curves]
        assert joined["forget_strength"].value == pytest.approx(np.mean(last), abs=1e-12)
        assert joined["forget_strength"].details["std"] == pytest.approx(np.std(last, ddof=1), abs=1e-12)
        assert joined["mu95_best"].value is not None and found["retain model"]["log10_forget_quality"].value == 0
        assert compare(runs, retain=compared_runs / "retain") == found and len(collected) == 8
        assert Comparison.load(found.save(tmp_path / "c").parent) == found
        one, other = tmp_path / "c/summaries/0.json", tmp_path / "c/summaries/1.json"
        told = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(told)
        with pytest.raises(ExpungeError, match=r"summaries/0\.json is not the one of this comparison"):
            Comparison.load(tmp_path / "c")

    def test_points_are_what_evaluate_says(self, compared_runs):
        found = compare([compared_runs / "npo-s0"], retain=compared_runs / "retain")
        corpus = load_corpus(forget=compared_runs / "forget.jsonl", retain=compared_runs / "retain.jsonl")
        model = load_model(compared_runs / "npo-s0")
        reference = tmp_records(compared_runs / "retain", corpus)
        said = evaluate(model, zoo.tokenizer(), corpus, suite="tofu", reference=reference)
        last = found.curves[0].points[-1]
        assert last.fs == pytest.approx(1 - said["forget_extraction_strength"].value, abs=1e-12)
        assert last.rs == pytest.approx(said["retain_extraction_strength"].value, abs=1e-12)
        assert last.utility == pytest.approx(said["model_utility"].value, abs=1e-12)
        assert last.log10_quality == pytest.approx(said["forget_quality"].details["log10_p"], abs=1e-12)

    def test_records_of_an_evaluation_serve(self, compared_runs, collected, tmp_path):
        run = tmp_path / "npo-s0"
        shutil.copytree(compared_runs / "npo-s0", run)
        corpus = load_corpus(forget=compared_runs / "forget.jsonl", retain=compared_runs / "retain.jsonl")
        evaluate(load_model(run), zoo.tokenizer(), corpus, suite="tofu", output_dir=run / "records")
        compare(run, retain=compared_runs / "retain")
        assert len(collected) == 4  # start, retain and two checkpoints; not the last model

    @pytest.mark.slow
    def test_a_log_of_the_retain_model_serves_for_forget_quality(self, compared_runs, tmp_path):
        corpus = load_corpus(forget=compared_runs / "forget.jsonl", retain=compared_runs / "retain.jsonl")
        log, _ = export(tmp_records(compared_runs / "retain", corpus), tmp_path / "log")
        found = compare([compared_runs / "npo-s0"], retain=log)
        known = compare([compared_runs / "npo-s0"], retain=compared_runs / "retain")
        points = [
            (ours.log10_quality, theirs.log10_quality)
            for ours, theirs in zip(found.curves[0].points, known.curves[0].points, strict=True)
        ]
        assert all(ours == pytest.approx(theirs, abs=1e-9) for ours, theirs in points)
        assert found.retain is None and [e.label for e in found.evaluations] == ["start model", "npo-s0"]
        assert any("has no place among the curves. retain_extraction_strength" in note for note in found.notes)
        assert not any("No retain model was given" in note for note in found.notes)

    def test_what_is_no_run_is_left_out_with_a_note(self, compared_runs):
        found = compare([compared_runs / "npo-s0", compared_runs / "retain", compared_runs / "forget.jsonl"])
        assert [c.label for c in found.curves] == ["npo-s0"]
        assert any("Left out" in note and "forget.jsonl" in note for note in found.notes)
        assert found["npo-s0"]["mu95_best"].value is None
        assert any("--retain" in note for note in found.notes)


def tmp_records(folder, corpus):
    """Records of a model, through evaluate."""
    output = folder / "made"
    evaluate(load_model(folder), zoo.tokenizer(), corpus, suite="tofu", output_dir=output, overwrite=True)
    return output


class TestMixing:
    @pytest.mark.slow
    def test_ends_and_calibration(self, compared_runs, collected):
        found = compare([compared_runs / "ascent"], trace="mixing")
        (curve,) = found.curves
        assert [p.at for p in curve.points] == [pytest.approx(i / 20) for i in range(21)]
        assert (curve.points[0].forget, curve.points[0].retain) == (found.start.forget, found.start.retain)
        chosen = curve.calibrated
        assert chosen is not None and chosen.rs >= 0.95 * found.start.rs and len(chosen.paraphrased) == 6
        measures = found["ascent"]
        assert measures["calibrated_alpha"].value == chosen.at
        assert measures["calibrated_forget_es"].value == pytest.approx(np.mean(chosen.forget))
        assert 21 <= len(collected) <= 26

    @pytest.mark.slow
    def test_the_last_mixture_is_the_unlearned_model(self, compared_runs):
        mixed = compare([compared_runs / "npo-s0"], trace="mixing").curves[0].points[-1]
        traced = compare([compared_runs / "npo-s0"]).curves[0].points[-1]
        assert (mixed.forget, mixed.retain) == (traced.forget, traced.retain)

    def test_needs_the_start_model_itself(self, compared_runs):
        corpus = load_corpus(forget=compared_runs / "forget.jsonl", retain=compared_runs / "retain.jsonl")
        with pytest.raises(ExpungeError, match="needs the start model itself"):
            compare([compared_runs / "npo-s0"], start=tmp_records(compared_runs / "start", corpus), trace="mixing")


class TestErrors:
    def test_no_checkpoints(self, compared_runs):
        with pytest.raises(ExpungeError, match=r"ascent kept no checkpoints.*keep_checkpoints=0.*trace=mixing"):
            compare([compared_runs / "npo-s0", compared_runs / "ascent"])

    def test_no_run(self, compared_runs):
        with pytest.raises(ExpungeError, match="no run at"):
            compare([compared_runs / "nowhere"])
        with pytest.raises(ExpungeError, match="no run of unlearn among"):
            compare([compared_runs / "retain"])

    def test_another_start_model(self, compared_runs):
        with pytest.raises(ExpungeError, match="weights differ"):
            compare([compared_runs / "npo-s0"], start=compared_runs / "retain")

    def test_records_of_other_data(self, compared_runs, tmp_path):
        other = tmp_path / "retain.jsonl"
        other.write_text("".join((compared_runs / "retain.jsonl").read_text().splitlines(keepends=True)[:5]))
        corpus = load_corpus(forget=compared_runs / "forget.jsonl", retain=other)
        with pytest.raises(ExpungeError, match="retain model were made on other retain examples"):
            compare([compared_runs / "npo-s0"], retain=tmp_records(compared_runs / "retain", corpus))

    def test_unfinished(self, compared_runs, tmp_path):
        run = tmp_path / "run"
        shutil.copytree(compared_runs / "npo-s0", run)
        manifest = Manifest.load(run)
        manifest.results.pop("finished")
        manifest.save(run)
        with pytest.raises(ExpungeError, match="resume=True"):
            compare(run)

    def test_data_that_are_gone(self, compared_runs, tmp_path):
        run = tmp_path / "run"
        shutil.copytree(compared_runs / "npo-s0", run)
        manifest = Manifest.load(run)
        manifest.results["corpus"]["forget"] = str(tmp_path / "gone.jsonl")
        manifest.save(run)
        with pytest.raises(ExpungeError, match=r"cannot be read again.*data.forget="):
            compare(run)
        manifest.results["corpus"] = {}
        manifest.save(run)
        with pytest.raises(ExpungeError, match=r"does not say where its data came from"):
            compare(run)

    def test_runs_framed_in_unlike_ways(self, compared_runs, tmp_path):
        run = tmp_path / "run"
        shutil.copytree(compared_runs / "npo-s1", run)
        manifest = Manifest.load(run)
        manifest.arguments["max_length"] = 77
        manifest.save(run)
        with pytest.raises(ExpungeError, match="another max_length"):
            compare([compared_runs / "npo-s0", run])


def test_front_and_notes_of_made_curves():
    def at(name, fs, rs):
        return Point(name=name, forget=(1 - fs,), retain=(rs,))

    start = at("start model", 0.0, 1.0)
    curves = [
        Curve(
            label="a", group="a", trace="checkpoints", points=(start, at("step 1", 0.5, 0.9), at("step 2", 0.6, 0.2))
        ),
        Curve(label="b", group="b", trace="checkpoints", points=(start, at("step 1", 0.8, 0.5))),
    ]
    found = compared(curves, start=start)
    assert found.front == (("start model", "start model"), ("a", "step 1"), ("b", "step 1"))
    assert any("unlike numbers of points (a 3, b 2)" in note for note in found.notes)
    assert any("coarse" in note for note in found.notes)
