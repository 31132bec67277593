"""The way through the controlled experiment: seed by seed, on several processors, and on from where it stopped."""

import json
import multiprocessing
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from expunge.core.checks import ExpungeError, require_at_least, require_between, unknown
from expunge.core.curve import Comparison
from expunge.core.manifest import Manifest, jsonable
from expunge.core.places import Recovery
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus
from expunge.evaluation.compare import compared
from expunge.models.load import load_model, model_fingerprint
from expunge.models.tiny import bfloat16_pays
from expunge.recipes._folder import opened
from expunge.recipes.demo import embedded_corpus, embedded_model
from expunge.recipes.locality.cells import Cell, recovered, selected, unlearned_in
from expunge.recipes.locality.findings import Found, Values, against_random, as_json, margins_with, notes_on, values_of
from expunge.recipes.locality.matching import Matched, load_matched, matched, matching_places, save_matched
from expunge.recipes.locality.protocol import ATTRIBUTIONS, METHODS, ORACLE, RANDOM, Bench, Protocol, write
from expunge.recipes.locality.teaching import Taught, full_strength, regions, teach

EVERY = 9
"""On the embedded default every ninth retained question is measured: 48, all kinds of questions in turn."""
SHOWN_FOR = 2.0
"""Seconds between two looks at how far other processes are."""


@dataclass(frozen=True)
class Locality:
    """What the experiment found."""

    taught: tuple[Taught, ...]
    comparison: Comparison
    """Curves of all runs, one group a method and place."""
    values: Values
    """Method -> measure -> place -> one value a seed."""
    found: Found
    """Method -> measure -> place -> against the random region, paired by seed."""
    recovered: Mapping[str, tuple[Recovery, ...]]
    """Attribution -> how well it finds the region on the start model, seed by seed."""
    matched: tuple[Matched, ...]
    """What moving regions toward the retain model came to."""
    margins: Mapping[str, float]
    """Mean differences that count as none, by the measure's first word."""
    notes: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class _Task:
    """What is to be done for one seed, and where it goes."""

    seed: int
    methods: tuple[str, ...]
    places: tuple[str, ...]
    attributions: tuple[str, ...]
    matching: bool
    folder: Path

    @property
    def told(self) -> Path:
        return self.folder / "taught" / f"{self.seed}.json"

    @property
    def matched(self) -> Path:
        return self.folder / "matched" / f"{self.seed}.json"

    @property
    def warned(self) -> Path:
        return self.folder / "warned" / f"{self.seed}.json"

    def cell(self, method: str, place: str) -> Path:
        return self.folder / "cells" / f"{method}-{place}-{self.seed}.json"

    def held(self, attribution: str) -> Path:
        return self.folder / "recovered" / f"{attribution}-{self.seed}.json"

    @property
    def cells(self) -> list[tuple[str, str]]:
        return [(method, place) for method in self.methods for place in self.places]

    @property
    def files(self) -> list[Path]:
        """All that it leaves; it is finished when they are there."""
        files = [self.told, *(self.cell(*pair) for pair in self.cells), *map(self.held, self.attributions)]
        return [*files, self.matched] if self.matching else files

    @property
    def finished(self) -> bool:
        return all(path.is_file() for path in self.files)


def locality(
    folder: str | Path = "locality",
    *,
    retain_model: str | Path | None = None,
    corpus: Corpus | None = None,
    methods: Sequence[str] = METHODS,
    places: Sequence[str] = (ORACLE, RANDOM),
    seeds: int = 5,
    first_seed: int = 0,
    ratio: float = 0.1,
    attributions: Sequence[str] = ATTRIBUTIONS,
    match_retain: bool = True,
    margins: Mapping[str, float] | None = None,
    learn_regularizer: float = 1.0,
    quality: bool = True,
    teaching: Mapping[str, Any] | None = None,
    unlearning: Mapping[str, Any] | None = None,
    relearning: Mapping[str, Any] | None = None,
    matching: Mapping[str, Any] | None = None,
    workers: int | None = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Locality:
    """Run the experiment; what is finished in `folder` is not run again.

    Args:
        folder: where curves and results go. Models and checkpoints are removed once they are measured.
        retain_model: folder of a model trained on the retain set only; None: the embedded default is trained (or taken
            from the cache) on invented authors.
        corpus: forget and retain set that go with it; None with the embedded default only.
        methods: unlearning methods.
        places: where each of them unlearns: `oracle`, the region that holds the knowledge; `random`, a region outside
            it, which the others are compared with; an attribution, for what it selects on the start model.
        seeds: how often all is repeated; the seed decides regions, data order and pairing.
        first_seed: the first of them. The settings here were tuned on seeds 100 and 101.
        ratio: share of value vectors in a region, at most a half.
        attributions: localizations of the start model whose masks, as large as the region, are held against it.
        match_retain: also move the region, and three random ones, toward what the retain model does.
        margins: in place of `MARGINS`, by `aues`, `mu95` and `resistance`: mean differences that count as none.
        learn_regularizer: weight of the retain set's NLL while the forget set is taught; 0 for none.
        quality: measure forget quality and model utility, for MU95.
        teaching: training settings in place of `TEACHING`.
        unlearning: settings of training and methods in place of `UNLEARNING` and `OF_METHOD`; those under the name of a
            method are for that method alone.
        relearning: settings of the relearning attack in place of `RELEARNING`.
        matching: learning rate, epochs and batch size in place of `MATCHING`.
        workers: seeds that run at once, in processes of their own; None: as many as there are processors, one on a GPU.
            A script that asks for several must do so below `if __name__ == "__main__":`, as these processes read it.
        overwrite: begin anew where `folder` holds another experiment.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: a folder with another experiment, or settings out of range.
    """
    require_at_least("seeds", seeds, 1)
    require_at_least("first_seed", first_seed, 0)
    require_between("ratio", ratio, 0, 0.5)
    if (retain_model is None) != (corpus is None):
        raise ExpungeError("a retain model and its corpus go together: give both, or neither for the embedded default.")
    for place in places:
        if place not in (ORACLE, RANDOM, *ATTRIBUTIONS):
            raise unknown("place to unlearn in", place, (ORACLE, RANDOM, *ATTRIBUTIONS))
    if RANDOM not in places:
        raise ExpungeError(f"all places are compared with '{RANDOM}', and it is not among {', '.join(places)}. Add it.")
    limits = margins_with(margins)
    embedded, precision = retain_model is None, "bfloat16" if bfloat16_pays() else "float32"
    computed, dtype = ({"precision": precision}, precision) if embedded else ({}, "auto")
    protocol = Protocol(
        ratio=ratio,
        learn_regularizer=learn_regularizer,
        quality=quality,
        teaching=computed | dict(teaching or {}),
        unlearning=computed | dict(unlearning or {}),
        relearning=computed | dict(relearning or {}),
        matching=matching or {},
    )
    measured = corpus
    if corpus is None or retain_model is None:
        corpus = embedded_corpus(60, 0)
        fewer = {"retain_perturbed": corpus["retain"][::EVERY], "world": corpus["world"][::2]}
        measured = Corpus({**corpus.splits, **fewer}, corpus.name)
        retain_model = embedded_model(corpus, ("retain", "world"), "retain", precision, 0, False, progress)
    assert measured is not None
    manifest = Manifest(
        stage="locality",
        arguments=jsonable({**protocol.resolved(), "dtype": dtype}),
        inputs={"model": model_fingerprint(load_model(retain_model)), **measured.fingerprints()},
    )
    folder = opened(folder, manifest, overwrite=overwrite, goes_on=True)
    bench = Bench(folder, Path(retain_model), corpus, measured, protocol, dtype, progress)
    given = (tuple(methods), tuple(places), tuple(attributions), match_retain, folder)
    tasks = [_Task(seed, *given) for seed in range(first_seed, first_seed + seeds)]
    _run(bench, [task for task in tasks if not task.finished], workers)
    return _summed_up(bench, tasks, limits)


def _run(bench: Bench, tasks: Sequence[_Task], workers: int | None) -> None:
    """Do what is left, one seed in each process."""
    if not tasks:
        return
    full = full_strength(bench)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = min(len(tasks), workers or (1 if torch.cuda.is_available() else cores))
    if at_once == 1:
        for task in tasks:
            _one_seed(bench, task, full)
        return
    wanted = [path for task in tasks for path in task.files]
    alone = replace(bench, progress=None)
    # A process that torch already runs threads in cannot be forked safely.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, context, torch.set_num_threads, (max(1, cores // at_once),)) as pool:
        running = {pool.submit(_one_seed, alone, task, full) for task in tasks}
        while running:
            done, running = wait(running, SHOWN_FOR, FIRST_EXCEPTION)
            for future in done:
                if future.exception() is not None:
                    pool.shutdown(wait=True, cancel_futures=True)
                future.result()
            if bench.progress is not None:
                there = sum(path.is_file() for path in wanted)
                bench.progress(f"{len(tasks)} seeds, {at_once} at once", there, len(wanted), "")


def _one_seed(bench: Bench, task: _Task, full: float) -> None:
    """Teach, unlearn, localize and match for one seed, whatever of it is not there yet."""
    work = task.folder / f"seed-{task.seed}"
    with _warnings_kept(task.warned):
        known = regions(bench, task.seed)
        start = teach(bench, known, full, task.seed, work, task.told)
        attributed = tuple(dict.fromkeys([*(p for p in task.places if p not in known), *task.attributions]))
        masks = selected(bench, start, attributed, task.seed)
        for name, found in recovered(masks, known[ORACLE]).items():
            write(task.held(name), asdict(found))
        for method, place in task.cells:
            if not task.cell(method, place).is_file():
                mask = (masks | known)[place]
                unlearned_in(bench, start, method, place, mask, task.seed).save(task.cell(method, place))
        if task.matching and not task.matched.is_file():
            save_matched(matched(bench, start, matching_places(known, task.seed), task.seed), task.matched)
    shutil.rmtree(work)


@contextmanager
def _warnings_kept(path: Path) -> Iterator[None]:
    """Write down what is warned of, to be told once at the end instead of at every step."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", category=UserWarning)
        yield
    before = json.loads(path.read_text()) if path.is_file() else []
    write(path, [*before, *(str(one.message) for one in caught)])


def _summed_up(bench: Bench, tasks: Sequence[_Task], limits: Mapping[str, float]) -> Locality:
    taught = tuple(Taught.load(task.told) for task in tasks)
    cells = [Cell.load(task.cell(*pair)) for task in tasks for pair in task.cells]
    values = values_of(cells, taught)
    found = against_random(values, limits)
    of_attributions = {
        name: tuple(Recovery(**json.loads(task.held(name).read_text())) for task in tasks)
        for name in tasks[0].attributions
    }
    moved = tuple(one for task in tasks if task.matching for one in load_matched(task.matched))
    told = [text for task in tasks if task.warned.is_file() for text in json.loads(task.warned.read_text())]
    notes = notes_on(taught, bench.protocol, bench.measured, values, limits, told)
    comparison = compared([cell.curve for cell in cells], start=cells[0].curve.points[0])
    comparison = replace(comparison, notes=(*comparison.notes[:1], *notes))
    write(
        bench.folder / "locality.json",
        {
            "taught": [asdict(of) for of in taught],
            "values": values,
            "found": as_json(found),
            "recovered": {name: [asdict(one) for one in of] for name, of in of_attributions.items()},
            "matched": [asdict(one) for one in moved],
            "notes": notes,
        },
    )
    return Locality(taught, comparison, values, found, of_attributions, moved, limits, tuple(notes), bench.folder)
