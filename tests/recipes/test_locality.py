"""The controlled experiment in small: the region holds the knowledge, both regions are unlearned, it resumes."""

import shutil

import pytest

import zoo
from expunge.core.checks import ExpungeError
from expunge.localize.localize import localize
from expunge.models.load import load_model, save_model
from expunge.recipes import locality as module
from expunge.recipes.locality import locality

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
            "ratio": 0.2,
            "teaching": TEACHING,
            "unlearning": UNLEARNING,
        }
        return locality(tmp_path / "out", retain_model=retain, corpus=zoo.corpus(), **{**settings, **more})

    return run


def test_every_step(run, tmp_path, monkeypatch):
    runs = []
    original = module.unlearn

    def recorded(*arguments, **settings):
        runs.append((settings["method"], settings.get("seed"), settings.get("mask")))
        return original(*arguments, **settings)

    kept = []
    recover = module._Bench.recovery

    def copied(self, start, *arguments):
        kept.append(shutil.copytree(start, tmp_path / f"start-{len(kept)}"))
        return recover(self, start, *arguments)

    monkeypatch.setattr(module, "unlearn", recorded)
    monkeypatch.setattr(module._Bench, "recovery", copied)
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
    found = made.found["npo"]["aues_hypervolume"]
    assert found.seeds == 2 and set(made.found["npo"]) == {"aues_hypervolume", "aues_trapezoid"}
    assert made.comparison["npo, oracle"]["aues_hypervolume"].value == pytest.approx(found.means[0])
    assert not list((tmp_path / "out").glob("seed-*"))  # curves stay, models go

    def refuse(*_, **__):
        raise AssertionError("what is finished must not run again")

    monkeypatch.setattr(module, "unlearn", refuse)
    again = run()
    assert repr(again.found) == repr(made.found)  # NaN is no equal of itself
    assert again.taught == made.taught and again.recovered == made.recovered
    with pytest.raises(AssertionError):
        run(seeds=3)  # one seed more is all that is run
    with pytest.raises(ExpungeError, match="other settings"):
        run(ratio=0.3)


def test_the_reverse_check_can_fail(run, monkeypatch):
    original = module._put_back

    def leaky(model, base, mask):
        return original(model, base, mask & ~mask if mask.counts() else mask)

    monkeypatch.setattr(module, "_put_back", leaky)
    made = run(seeds=1)
    assert not made.taught[0].region_holds_it
    assert any("Reverse check FAILED for seeds [0]" in note for note in made.notes)


def test_without_a_regularizer_the_retain_set_has_no_part_in_teaching(run, monkeypatch):
    methods = []
    original = module.unlearn
    monkeypatch.setattr(module, "unlearn", lambda *a, **s: methods.append(s["method"]) or original(*a, **s))
    run(seeds=1, learn_regularizer=0.0)
    assert methods == ["learn", "learn", "npo", "npo"]


def test_errors(tmp_path):
    with pytest.raises(ExpungeError, match="go together"):
        locality(tmp_path, corpus=zoo.corpus())
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ExpungeError, match="at least 1"):
        locality(tmp_path, seeds=0)
