"""The controlled experiment in small: the region holds the knowledge, all places are unlearned in, it resumes."""

import shutil
from dataclasses import replace

import pytest

import zoo
from expunge.core.checks import ExpungeError
from expunge.experiments._locality import cells, seeds, teaching
from expunge.experiments.locality import locality
from expunge.localize.localize import localize
from expunge.models.load import load_model, save_model
from expunge.results.robustness import resistance
from expunge.training import trainer

TEACHING = {"learning_rate": 3e-2, "epochs": 4, "batch_size": 6, "warmup": 0}
UNLEARNING = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 6, "warmup": 0}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    retain = save_model(zoo.tiny_model(seed=0), zoo.tokenizer(), tmp_path / "retain")

    def run(**more):
        settings = {
            "methods": ["npo"],
            "attributions": ["memflex", "random"],
            "seeds": 2,
            "workers": 1,
            "ratio": 0.2,
            "quality": False,
            "match_retain": False,
            "teaching": TEACHING,
            "unlearning": UNLEARNING,
        }
        return locality(tmp_path / "out", retain=retain, data=zoo.corpus(), **{**settings, **more})

    return run


@pytest.fixture
def runs(monkeypatch):
    """What was trained: (method, seed, mask)."""
    seen = []

    def recorded(original):
        def unlearn(*arguments, **settings):
            seen.append((settings["method"], settings.get("seed"), settings.get("mask")))
            return original(*arguments, **settings)

        return unlearn

    for module in (teaching, cells):
        monkeypatch.setattr(module, "unlearn", recorded(module.unlearn))
    return seen


@pytest.mark.slow
def test_every_step(run, runs, tmp_path, monkeypatch):
    kept = []
    select = seeds.selected

    def copied(bench, start, *arguments):
        kept.append(shutil.copytree(start, tmp_path / f"start-{len(kept)}"))
        return select(bench, start, *arguments)

    monkeypatch.setattr(seeds, "selected", copied)
    made = run()
    assert [(method, seed) for method, seed, _ in runs] == [
        ("learn", None),  # all parameters, for comparison
        *(step for seed in (0, 1) for step in (("learn_reg", seed), ("npo", seed), ("npo", seed))),
    ]
    for seed in (0, 1):
        taught, oracle, random = (mask for _, s, mask in runs if s == seed)
        assert taught == oracle and oracle.counts() and random.share().units == oracle.share().units
        assert not any((oracle & random).counts().values())
    assert runs[1][2] != runs[4][2]  # each seed has a region of its own
    assert [t.seed for t in made.taught] == [0, 1]
    assert all(t.region_holds_it and t.outside_untouched for t in made.taught)
    assert any("bit for bit" in note for note in made.notes) and any("MU95 was left out" in note for note in made.notes)
    assert [c.label for c in made.comparison.curves] == [
        f"npo, {where}, seed {seed}" for seed in (0, 1) for where in ("oracle", "random")
    ]
    for seed in (0, 1):
        oracle, random = made.comparison.curves[2 * seed : 2 * seed + 2]
        assert oracle.points[0] == random.points[0]  # one start model
        assert 1 - oracle.points[0].fs == pytest.approx(made.taught[seed].strength)
        assert len(oracle.points) == len(random.points) == 3
    region = runs[1][2]
    start, corpus = load_model(kept[0]), zoo.corpus()
    memflex = localize(start, zoo.tokenizer(), corpus, attribution="memflex", unit="value_vector", seed=1000).select(
        ratio=0.2
    )
    shared, size = sum((memflex & region).counts().values()), sum(region.counts().values())
    assert made.recovered["memflex"][0].precision == made.recovered["memflex"][0].recall == shared / size
    chance = size / sum(region.layout.groups.values())
    assert {one.expected_precision for of in made.recovered.values() for one in of} == {chance}
    assert set(made.recovered) == {"memflex", "random"} and all(len(of) == 2 for of in made.recovered.values())
    assert all(one.precision < 1 for one in made.recovered["random"])  # another draw than the region's
    found = made.found["npo"]["aues_hypervolume"]["oracle"]
    assert found.seeds == 2 and set(made.found["npo"]) == {"aues_hypervolume", "aues_trapezoid", "resistance"}
    assert made.comparison["npo, oracle"]["aues_hypervolume"].value == pytest.approx(found.means[0])
    assert made.comparison["npo, random"]["aues_hypervolume"].value == pytest.approx(found.means[1])
    assert not list((tmp_path / "out").glob("seed-*"))  # curves stay, models go

    before = len(runs)
    again = run(margins={"aues": 0.3})
    assert len(runs) == before  # what is finished is not run again
    assert again.found["npo"]["aues_hypervolume"]["oracle"].margin == 0.3  # and judged by another margin at will
    assert again.values == made.values and again.taught == made.taught and again.recovered == made.recovered
    run(seeds=1, first_seed=2)  # one seed more is all that is run
    assert [(method, seed) for method, seed, _ in runs[before:]] == [("learn_reg", 2), ("npo", 2), ("npo", 2)]
    with pytest.raises(ExpungeError, match="other data or settings"):
        run(ratio=0.3)


@pytest.mark.slow
def test_what_was_stopped_goes_on_from_where_it_was(run, runs, monkeypatch):
    original, told = cells.strength_relearned, []

    def stopped(*arguments):
        told.append(arguments)
        if len(told) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(cells, "strength_relearned", stopped)  # the second cell has trained and is not finished
    with pytest.raises(KeyboardInterrupt):
        run(seeds=1, attributions=[])
    trained = []
    monkeypatch.setattr(trainer.ObjectiveTrainer, "train", lambda *_, **__: trained.append(1))
    made = run(seeds=1, attributions=[])
    assert [method for method, *_ in runs] == ["learn", "learn_reg", "npo", "npo", "npo"]
    assert trained == [1]  # the attack alone: the run itself was found finished
    assert [len(curve.points) for curve in made.comparison.curves] == [3, 3]
    assert not list(made.folder.glob("seed-*"))


@pytest.mark.slow
def test_attributions_are_places_and_settings_may_be_one_methods(run, runs, monkeypatch):
    rates = {}
    unlearn = cells.unlearn

    def recorded(*arguments, **settings):
        rates[settings["method"]] = settings["learning_rate"]
        return unlearn(*arguments, **settings)

    monkeypatch.setattr(cells, "unlearn", recorded)
    settings = {**UNLEARNING, "epochs": 1, "wga": {"learning_rate": 3e-3}}
    made = run(methods=["npo", "wga"], seeds=1, places=["random", "magnitude"], attributions=[], unlearning=settings)
    assert rates == {"npo": 1e-2, "wga": 3e-3}
    random, magnitude = (mask for method, _, mask in runs if method == "npo")
    assert random != magnitude and random.share() == magnitude.share()
    assert [mask for method, _, mask in runs if method == "wga"] == [random, magnitude]
    for method in ("npo", "wga"):
        assert set(made.found[method]["aues_hypervolume"]) == {"magnitude"}
        assert set(made.values[method]["aues_hypervolume"]) == {"random", "magnitude"}
    # R of a cell is held against how fast the retain model relearns with the same seed
    (taught,), (value,) = made.taught, made.values["npo"]["resistance"]["magnitude"]
    cell = cells.Cell.load(made.folder / "cells" / "npo-magnitude-0.json")
    before = 1 - cell.curve.points[-1].fs
    assert value == resistance((before, cell.relearned), (taught.never_knew, taught.never_knew_relearned))
    # by hand: the retain model gains .1 and the unlearned one .4, so R = .25
    by_hand = replace(taught, never_knew=0.1, never_knew_relearned=0.2)
    assert replace(cell, relearned=before + 0.4).values(by_hand)["resistance"] == pytest.approx(0.25)


@pytest.mark.slow
def test_the_reverse_check_can_fail(run, monkeypatch):
    original = teaching.put_back

    def leaky(model, base, mask):
        return original(model, base, mask & ~mask if mask.counts() else mask)

    monkeypatch.setattr(teaching, "put_back", leaky)
    made = run(seeds=1, attributions=[], places=["random"])
    assert not made.taught[0].region_holds_it
    assert any("Reverse check FAILED for seeds [0]" in note for note in made.notes)


@pytest.mark.slow
def test_without_a_regularizer_the_retain_set_has_no_part_in_teaching(run, runs):
    run(seeds=1, attributions=[], places=["random"], learn_regularizer=0.0)
    assert [method for method, *_ in runs] == ["learn", "learn", "npo"]


@pytest.mark.slow
def test_several_seeds_at_once_come_to_the_same(run, tmp_path):
    asked, told = {"attributions": ["magnitude"], "places": ["random"]}, []
    together = run(**asked, workers=2, progress=lambda *what: told.append(what))
    assert told[-1][0] == "2 seeds, 2 at once" and told[-1][1] == told[-1][2] == 6
    shutil.rmtree(tmp_path / "out")
    alone = run(**asked, seeds=1, first_seed=1)
    assert together.taught[1:] == alone.taught
    assert {name: of["random"][1:] for name, of in together.values["npo"].items()} == {
        name: of["random"] for name, of in alone.values["npo"].items()
    }


def test_errors(tmp_path):
    with pytest.raises(ExpungeError, match="go together"):
        locality(tmp_path, data=zoo.corpus())
    for many in (0, 21):  # not after hours: 2 ** 21 sign flips are too many
        with pytest.raises(ExpungeError, match="seeds must be between 1 and 20"):
            locality(tmp_path, seeds=many)
    with pytest.raises(ExpungeError, match="margins: mu95 must be above 0"):
        locality(tmp_path, margins={"mu95": 0.0})
    with pytest.raises(ExpungeError, match="place to unlearn in"):
        locality(tmp_path, places=["nowhere", "random"])
    with pytest.raises(ExpungeError, match="compared with 'random'"):
        locality(tmp_path, places=["oracle"])
    with pytest.raises(ExpungeError, match="margins are of"):
        locality(tmp_path, margins={"es": 0.1})
    (tmp_path / "thesis.tex").touch()
