"""All that is done for one seed, the files that it leaves, and several seeds at once."""

import json
import multiprocessing
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from expunge.experiments._folder import write
from expunge.experiments._locality.cells import recovered, selected, unlearned_in
from expunge.experiments._locality.matching import matched, matching_places, save_matched
from expunge.experiments._locality.protocol import ORACLE, Bench
from expunge.experiments._locality.teaching import full_strength, regions, teach

SHOWN_FOR = 2.0
"""Seconds between two looks at how far other processes are."""


@dataclass(frozen=True)
class Task:
    """What is to be done for one seed, and where it goes."""

    seed: int
    methods: tuple[str, ...]
    places: tuple[str, ...]
    attributions: tuple[str, ...]
    matching: bool
    folder: Path

    @property
    def told(self) -> Path:
        """What is known about its start model."""
        return self.folder / "taught" / f"{self.seed}.json"

    @property
    def matched(self) -> Path:
        """What moving regions toward the retain model came to."""
        return self.folder / "matched" / f"{self.seed}.json"

    @property
    def warned(self) -> Path:
        """What was warned of."""
        return self.folder / "warned" / f"{self.seed}.json"

    def cell(self, method: str, place: str) -> Path:
        """What one method in one place came to."""
        return self.folder / "cells" / f"{method}-{place}-{self.seed}.json"

    def held(self, attribution: str) -> Path:
        """How well an attribution finds the region."""
        return self.folder / "recovered" / f"{attribution}-{self.seed}.json"

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Methods and places."""
        return [(method, place) for method in self.methods for place in self.places]

    @property
    def files(self) -> list[Path]:
        """All that it leaves; it is finished when they are there."""
        files = [self.told, *(self.cell(*pair) for pair in self.cells), *map(self.held, self.attributions)]
        return [*files, self.matched] if self.matching else files

    @property
    def finished(self) -> bool:
        """Is nothing left to be done?"""
        return all(path.is_file() for path in self.files)


def run(bench: Bench, tasks: Sequence[Task], workers: int | None) -> None:
    """Do what is left, one seed in each process."""
    if not tasks:
        return
    full = full_strength(bench)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = min(len(tasks), workers or (1 if torch.cuda.is_available() else cores))
    if at_once == 1:
        for task in tasks:
            one_seed(bench, task, full)
        return
    wanted = [path for task in tasks for path in task.files]
    alone = replace(bench, progress=None)
    # A process that torch already runs threads in cannot be forked safely.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, context, torch.set_num_threads, (max(1, cores // at_once),)) as pool:
        running = {pool.submit(one_seed, alone, task, full) for task in tasks}
        while running:
            done, running = wait(running, SHOWN_FOR, FIRST_EXCEPTION)
            for future in done:
                if future.exception() is not None:
                    pool.shutdown(wait=True, cancel_futures=True)
                future.result()
            if bench.progress is not None:
                there = sum(path.is_file() for path in wanted)
                bench.progress(f"{len(tasks)} seeds, {at_once} at once", there, len(wanted), "")


def one_seed(bench: Bench, task: Task, full: float) -> None:
    """Teach, unlearn, localize and match for one seed, whatever of it is not there yet."""
    work = task.folder / f"seed-{task.seed}"
    start = work / "start"
    with _warnings_kept(task.warned):
        known = regions(bench, task.seed)
        if not (task.told.is_file() and start.is_dir()):  # told of last, so that a start model it tells of is whole
            teach(bench, known, full, task.seed, start, task.told)
        attributed = tuple(dict.fromkeys([*(p for p in task.places if p not in known), *task.attributions]))
        masks = selected(bench, start, attributed, task.seed)
        for name, found in recovered(masks, known[ORACLE]).items():
            write(task.held(name), asdict(found))
        for method, place in task.cells:
            if not task.cell(method, place).is_file():
                folder = work / f"{method}-{place}"
                cell = unlearned_in(bench, start, method, place, (masks | known)[place], task.seed, folder)
                cell.save(task.cell(method, place))
                shutil.rmtree(folder)  # not before, or what is left of it could be taken for a run that was stopped
        if task.matching and not task.matched.is_file():
            save_matched(matched(bench, start, matching_places(known, task.seed), task.seed), task.matched)
    shutil.rmtree(work)


@contextmanager
def _warnings_kept(path: Path) -> Iterator[None]:
    """Write down what is warned of, to be shown once at the end instead of at every step."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", category=UserWarning)
        yield
    before = json.loads(path.read_text()) if path.is_file() else []
    write(path, [*before, *(str(one.message) for one in caught)])
