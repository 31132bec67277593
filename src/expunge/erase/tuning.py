"""Trials of a request: each candidate at several learning rates, until one is near a model that never knew."""

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from expunge.attack.attack import untaught
from expunge.core.manifest import FILE as MANIFEST
from expunge.core.progress import under
from expunge.erase.request import TRIED, Request
from expunge.erase.trials import FORGET, PROBABILITY, distance
from expunge.experiments._learning_rates import RunLog
from expunge.training.plan import plan_unlearning, split_settings
from expunge.training.trainer import NonFiniteLoss, NonFiniteWeights
from expunge.training.unlearn import unlearn

SHARE = 0.5
"""Share of the budget after which no trial begins; the rest is for attacks and evaluation."""


@dataclass(frozen=True)
class Tuning:
    """The trials of a request; those that are written down are not made again."""

    request: Request

    @cached_property
    def baseline(self) -> dict[str, float]:
        """What the start model knows of the rows that trials are measured on."""
        if kept := self.request.log.levels.get("start"):
            return dict(kept)
        return self.request.measured(self.request.models.start, under(self.request.progress, "start model"))

    @cached_property
    def never(self) -> dict[str, float]:
        """The same of a model that never knew, the control or untaught facts; no more than the start model knows."""
        request = self.request
        if kept := request.log.levels.get("never knew"):
            return dict(kept)
        control = request.models.control
        asked = untaught(request.small, request.seed) if control is None else request.small
        model = request.models.start if control is None else control
        found = request.measured(model, under(request.progress, "control"), corpus=asked)
        return {name: min(found[name], self.baseline[name]) for name in (FORGET, PROBABILITY)}

    def run(self) -> RunLog:
        """Try the candidates, until one reaches the target or the time is spent."""
        request, log = self.request, self.request.log
        if log.runs:  # the choice is made
            return log
        for name in request.arms:
            self._settle(log, name)
        log.levels = {"start": self.baseline, "never knew": self.never}
        log.save()
        for number, (name, rate) in enumerate(rates := self._rates()):
            if any(self.miss(row) <= 0 for row in log.tuning):
                break
            if any((row["arm"], row["rate"]) == (name, rate) for row in log.tuning):
                continue
            longest = max((row["seconds"] for row in log.tuning), default=0.0)
            if log.tuning and request.spent + longest > SHARE * request.budget:
                break
            if request.progress:
                request.progress("erase: trials", number, len(rates), f"{name}, rate {rate:g}")
            self._try(log, name, rate)
        request.models.let_go()
        return log

    def nearest(self, log: RunLog, name: str) -> float:
        """By how much the best trial of a candidate missed the target; infinite where there is none."""
        return min((self.miss(row) for row in log.tuning if row["arm"] == name), default=math.inf)

    def miss(self, row: Mapping[str, Any]) -> float:
        """By how much a trial missed the target; infinite where it failed."""
        return math.inf if "failed" in row else distance(row, self.never, self.baseline)

    def _rates(self) -> list[tuple[str, float]]:
        """Candidates with their learning rates, in the order in which they are tried."""
        request, found = self.request, []
        for name, candidate in request.arms.items():
            plan = plan_unlearning(request.models.start, *split_settings(request.settings(name)), corpus=request.corpus)
            found += [(name, rate) for rate in candidate.rates(float(plan.training.learning_rate or 0), request.tries)]
        return found

    def _try(self, log: RunLog, name: str, rate: float) -> None:
        """Unlearn and measure; of each candidate the nearest model stays in the folder."""
        request, began, aside = self.request, time.monotonic(), self._aside(name, rate)
        progress = under(request.progress, f"{name}, rate {rate:g}")
        row: dict[str, Any] = {"arm": name, "rate": rate}
        if not (aside / MANIFEST).is_file():  # a call that was stopped as it began left nothing to go on from
            shutil.rmtree(aside, ignore_errors=True)
        try:
            done = unlearn(
                request.models.to_train(),
                request.models.tokenizer,
                request.corpus,
                output_dir=aside,
                resume=aside.exists(),
                progress=progress,
                **request.framing,
                **{**request.settings(name), "learning_rate": rate},
            )
            row |= request.measured(done.model, progress) | {"steps": done.manifest.results["steps"]}
        except (NonFiniteLoss, NonFiniteWeights) as error:  # at a rate that is too high; others are tried
            shutil.rmtree(aside, ignore_errors=True)
            row["failed"] = str(error)
        log.tuning.append({**row, "seconds": round(time.monotonic() - began, 1)})
        log.save()
        self._settle(log, name)

    def _aside(self, name: str, rate: float) -> Path:
        return self.request.folder / TRIED / f"{name}-{rate:g}"

    def _settle(self, log: RunLog, name: str) -> None:
        """Have the nearest model of a candidate in its place, by the trials that are written down, and no other."""
        rows = [row for row in log.tuning if row["arm"] == name]
        nearest = min(rows, key=self.miss, default=None)
        for row in rows:
            aside = self._aside(name, row["rate"])
            if row is nearest and aside.exists():
                for earlier in (self.request.attacked(name), self.request.run(name)):
                    shutil.rmtree(earlier, ignore_errors=True)
                aside.rename(self.request.run(name))
            else:
                shutil.rmtree(aside, ignore_errors=True)
