"""Which runs stand in one row: those of one recipe, whatever was drawn by seeds."""

from dataclasses import replace

import pytest

import zoo
from expunge.comparison.run_folders import groups, opened
from expunge.localize.localize import localize
from expunge.masks.mask import Mask
from expunge.training.unlearn import unlearn


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Make a run of one epoch, with its seed, and give its folder."""
    folder = tmp_path_factory.mktemp("runs")

    def made(name, corpus=None, **settings):
        corpus = zoo.corpus() if corpus is None else corpus
        unlearn(zoo.tiny_model(), zoo.tokenizer(), corpus, output_dir=folder / name, epochs=1, batch_size=6, **settings)
        return folder / name

    return made


def rows(*runs):
    folders, _ = opened(runs)
    return list(groups(folders).values())


def mask(*, attribution="random", seed=0, ratio=0.1):
    scores = localize(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), attribution=attribution, seed=seed)
    return scores.select(ratio=ratio)


def test_masks_of_one_recipe_are_one_row_and_of_others_are_not(run, tmp_path):
    drawn = [mask(seed=seed) for seed in (0, 1)]
    assert drawn[0] != drawn[1] and drawn[0].recipe == drawn[1].recipe
    seeds = [run(f"random-{n}", mask=one.save(tmp_path / f"{n}.safetensors"), seed=n) for n, one in enumerate(drawn)]
    fewer = run("few-0", mask=mask(ratio=0.05))
    other = run("weights-0", mask=mask(attribution="magnitude"))
    without = run("whole-0")
    found = rows(*seeds, fewer, other, without)
    assert found == ["random (2 seeds)", "random (2 seeds)", "few-0", "weights-0", "whole-0"]


def test_complements_are_of_one_recipe_whatever_drew_them_and_the_mask_that_they_avoid(run):
    one, two = (mask(seed=seed).complement(seed + 5) for seed in (0, 1))
    assert one.recipe == two.recipe != mask().recipe
    assert one.recipe != mask().complement(5, matched=True).recipe


def test_masks_of_other_data_or_of_another_model_are_of_another_recipe():
    made = mask()
    few = replace(zoo.corpus(), splits={name: rows[:4] for name, rows in zoo.corpus().splits.items()})
    for model, corpus in ((zoo.tiny_model(seed=1), zoo.corpus()), (zoo.tiny_model(), few)):
        scores = localize(model, zoo.tokenizer(), corpus, attribution="gradient")
        assert scores.select(ratio=0.1).recipe != mask(attribution="gradient").recipe
    assert mask(attribution="gradient").complement(0).recipe != scores.select(ratio=0.1).complement(0).recipe
    assert Mask(made.layout, made.bits).recipe is None


def test_masks_of_which_nothing_says_how_they_were_made_go_by_what_they_select(run):
    bare = [Mask(one.layout, one.bits) for one in (mask(seed=0), mask(seed=1))]
    runs = [run(f"bare-{n}", mask=bare[which], seed=n) for n, which in enumerate((0, 0, 1))]
    assert rows(*runs) == ["bare (2 seeds)", "bare (2 seeds)", "bare-2"]


def test_refusals_that_seeds_draw_do_not_part_runs_and_other_data_do(run):
    few = replace(zoo.corpus(), splits={**zoo.corpus().splits, "forget": zoo.corpus()["forget"][:5]})
    runs = [run(f"idk-{seed}", method="idk", seed=seed) for seed in (0, 1)]
    assert rows(*runs, run("idk-2", few, method="idk", seed=2)) == ["idk (2 seeds)", "idk (2 seeds)", "idk-2"]
