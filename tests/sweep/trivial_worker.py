"""A worker of a study whose runs do nothing but wait: `python trivial_worker.py FOLDER SIDE SECONDS [URL]`."""

import os
import sys
import time
from pathlib import Path

from expunge.sweep.claims import Claims
from expunge.sweep.journal import opened, storage_of
from expunge.sweep.objective import Standing
from expunge.sweep.samplers import source
from expunge.sweep.space import Space
from expunge.sweep.worker import Attempt, Labor, Outcome, work
from expunge.sweep.workers import Watch, Worker, alive


def main(folder: Path, side: int, seconds: float, url: str | None = None) -> None:
    space = Space.read({"x": [*range(side)], "y": [*range(side)]}, {})
    points = source("grid", space, seed=0, objectives=1)
    worker = Worker.here()

    def run(attempt: Attempt) -> Outcome:
        (attempt.folder / "run").mkdir()
        time.sleep(seconds)
        attempt.look(1, Standing(0.0, (1.0,)))
        (attempt.folder / "run" / "model").write_text(str(os.getpid()))
        return Outcome(state="finished", standing=Standing(0.0, (float(attempt.point["x"]),)))

    with alive(folder, worker, every=0.2):
        # Kills at random may well meet one point four times.
        claims = Claims(opened(storage_of(folder, url, grace=3), "study", 1), worker, Watch(folder), most_attempts=100)
        labor = Labor(folder=folder, space=space, source=points, claims=claims, run=run, trials=points.count, wait=0.1)
        print(work(labor), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
