"""Models of which it is known what they know: how they are trained, attacked and measured, each of them once."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import PreTrainedModel

from expunge.attack.attack import chosen, drawn_out
from expunge.attack.attacks.quantize import round_weights
from expunge.attack.attacks.relearn import relearned
from expunge.core.cache import cache_path
from expunge.core.manifest import fingerprint, jsonable, versions
from expunge.core.progress import Progress, renamed
from expunge.core.whole import write_whole
from expunge.data.corpus import Corpus, Example, load_corpus
from expunge.evaluation.evaluate import evaluate
from expunge.experiments._demo import COMMON, METHODS
from expunge.models.fingerprint import model_fingerprint
from expunge.models.load import load_model, load_tokenizer
from expunge.models.tiny import bfloat16_pays
from expunge.results.attacked import CannotRun, Leak
from expunge.results.measures import Evaluation, Measure
from expunge.results.records import sound
from expunge.training.finetune import finetune
from expunge.training.unlearn import unlearn

KNOWING = ("answers", "paraphrases", "both")
IGNORANT = ("retained", "wrong", "strangers")
UTILITY = "model_utility"
BITS = (4, 8)
ROUNDED = {4: "nf4", 8: "int8"}


@dataclass(frozen=True)
class Runs:
    """Unlearned models before and after the attacks, with what they are compared with."""

    start: Evaluation
    retain: Evaluation
    retain_relearned: Evaluation
    states: Mapping[str, Mapping[str, Evaluation]]
    """Unlearned model -> `plain`, `relearned`, `4`, `8` -> its evaluation."""


class Pool:
    """Trains and measures models; what was measured once comes from the cache, and no model is trained for it."""

    def __init__(
        self,
        corpus: Corpus,
        models: tuple[Path, Path],
        *,
        metrics: Sequence[str],
        attacks: Sequence[str],
        teaching: Mapping[str, Any],
        relearning: Mapping[str, Any],
        total: int,
        progress: Progress | None,
    ) -> None:
        """Begin with nothing measured.

        Args:
            corpus: forget and retain set, with paraphrased and wrong answers.
            models: folders of the start and of the retain model.
            metrics: what is measured of every model, of the suite `tofu`.
            attacks: what each model is attacked with.
            teaching: training settings of the pool but rate and seed.
            relearning: settings of the relearning attack.
            total: models that will be measured, for the progress.
            progress: called with (what, done, total, numbers).
        """
        self.corpus, self.metrics = corpus, tuple(metrics)
        self.attacks = chosen(attacks, {})
        self.target, self.retain = models
        self.tokenizer = load_tokenizer(self.target)
        self.teaching, self.relearning, self.progress = dict(teaching), dict(relearning), progress
        self.precision = "bfloat16" if bfloat16_pays() else "float32"
        self._done, self._total = 0, total
        self._known = {
            "data": corpus.fingerprints(),
            "models": [model_fingerprint(load_model(path)) for path in models],
            "precision": self.precision,
            "versions": {k: v for k, v in versions().items() if k in ("expunge", "torch", "transformers")},
        }

    def member(self, kind: str, rate: float, seed: int) -> Evaluation:
        """The evaluation of one model of the pool."""
        shown = tuple(self.shown(kind, seed))
        settings = {**self.teaching, "learning_rate": rate, "seed": seed}

        def make() -> PreTrainedModel:
            run = finetune(
                load_model(self.retain, dtype="float32"),
                self.tokenizer,
                Corpus({"shown": shown}),
                splits=("shown",),
                precision=self.precision,
                checkpoint_every=0,
                progress=renamed(self.progress, f"teach {kind}, rate {rate:g}, seed {seed}"),
                **settings,
            )
            return run.model

        return self._measured({"shown": [e.key for e in shown], "settings": settings}, make, f"pool: {kind}")

    def attacked(self, methods: Sequence[str], strengths: Sequence[float], seed: int) -> Runs:
        """Every unlearned model before and after the attacks.

        Args:
            methods: those of the demonstration.
            strengths: factors of each method's learning rate there.
            seed: of unlearning and relearning.
        """
        start = self._measured({"model": "start"}, lambda: load_model(self.target), "start model", utility=True)
        retain = self._measured({"model": "retain"}, lambda: load_model(self.retain), "retain model")
        relearning = {**self.relearning, "seed": seed}
        again = self._measured(
            {"model": "retain", "relearn": relearning},
            lambda: self._relearned(load_model(self.retain, dtype="float32"), "retain model", relearning),
            "retain model, relearned",
        )
        states = {}
        for method in methods:
            for strength in strengths:
                settings = {**COMMON, **METHODS[method], "seed": seed}
                settings["learning_rate"] *= strength
                name = f"{method}, rate {settings['learning_rate']:g}"
                states[name] = dict(self._states(name, method, settings, relearning))
        return Runs(start, retain, again, states)

    def shown(self, kind: str, seed: int) -> list[Example]:
        """What a model of the pool is shown: a third or half of it retained questions, so that it forgets none."""
        forget = self.corpus["forget"]
        every = max(1, len(self.corpus["retain"]) // len(forget))
        retained = list(self.corpus["retain"][::every][: len(forget)])
        others = list(self.corpus["retain"][1::every][: len(forget)])
        paraphrases = [e.asking(str(e.paraphrased), prompt=e.paraphrased_prompt) for e in forget]
        strangers = load_corpus("synthetic", authors=2 * len(forget), forget_authors=len(forget), seed=seed + 1000)
        taught: dict[str, list[Example]] = {
            "answers": list(forget),
            "paraphrases": paraphrases,
            "both": [*forget, *paraphrases],
            "retained": others,
            "wrong": [e.asking(e.perturbed[0]) for e in forget],
            "strangers": list(strangers["forget"][: len(forget)]),
        }
        return [*taught[kind], *retained]

    def _states(
        self, name: str, method: str, settings: dict[str, Any], relearning: dict[str, Any]
    ) -> Iterator[tuple[str, Evaluation]]:
        @cache
        def unlearned() -> PreTrainedModel:
            start, named = load_model(self.target, dtype="float32"), renamed(self.progress, f"unlearn with {name}")
            settled = {"precision": self.precision, **settings}
            run = unlearn(start, self.tokenizer, self.corpus, method=method, progress=named, **settled)
            assert isinstance(run.model, PreTrainedModel)
            return run.model

        known = {"method": method, "settings": settings}
        yield "plain", self._measured(known, unlearned, name, utility=True)
        for bits in BITS:
            yield (
                str(bits),
                self._measured(
                    {**known, "bits": bits},
                    lambda bits=bits: round_weights(copy.deepcopy(unlearned()), ROUNDED[bits]),  # type: ignore[misc]
                    f"{name}, {bits} bits",
                ),
            )
        yield (
            "relearned",
            self._measured(
                {**known, "relearn": relearning},
                lambda: self._relearned(copy.deepcopy(unlearned()), name, relearning),
                f"{name}, relearned",
            ),
        )

    def _relearned(self, model: PreTrainedModel, what: str, settings: dict[str, Any]) -> PreTrainedModel:
        return relearned(
            model,
            self.tokenizer,
            self.corpus["forget"],
            precision=self.precision,
            progress=renamed(self.progress, f"relearn: {what}"),
            **settings,
        )

    def _measured(
        self, what: Mapping[str, Any], make: Callable[[], PreTrainedModel], label: str, *, utility: bool = False
    ) -> Evaluation:
        """Measures of a model, from records in the cache, else of the model that `make` gives."""
        self._tell(label)
        metrics = [*self.metrics, *([UTILITY] if utility else [])]
        kept = cache_path("metrics", fingerprint(jsonable({**self._known, "what": what, "metrics": metrics})))
        made = cache(make)
        if not sound(kept):
            evaluate(
                made(), self.tokenizer, self.corpus, suite="tofu", metrics=metrics, output_dir=kept, overwrite=True
            )
        drawn = {f"attack_{name}": self._drawn(made, name, function, kept, label) for name, function, _ in self.attacks}
        self._done += 1
        self._tell(label)
        found = evaluate(records=kept, suite="tofu", metrics=metrics, label=label)
        return replace(found, measures={**found.measures, **drawn})

    def _drawn(self, made: Callable[[], PreTrainedModel], name: str, function: Any, kept: Path, label: str) -> Measure:
        """What an attack draws out of a model: the mean over facts of the form of it that draws out most."""
        file = kept.with_name(f"{kept.name}-{name}.json")
        if not file.is_file():
            progress = renamed(self.progress, f"{name}: {label}")
            leaks = drawn_out(function, made(), self.tokenizer, self.corpus, {"seed": 0}, progress)
            if not (values := worst_form(leaks)):
                raise CannotRun(f"the attack {name} gives no value here: {leaks[0].not_run if leaks else 'no form'}.")
            write_whole(file, json.dumps(values))
        values = json.loads(file.read_text(encoding="utf-8"))
        return Measure(
            value=fmean(values),
            better="neither",
            n=len(values),
            definition=f"mean over facts of the form of the attack {name} that draws out most",
            source="",
            per_example=tuple(values),
        )

    def _tell(self, label: str) -> None:
        if self.progress is not None:
            self.progress("models measured", self._done, self._total, label)


def worst_form(leaks: Sequence[Leak]) -> list[float]:
    """By fact, the value of the form of an attack that draws out most; of the facts that have one."""
    found: dict[int, float] = {}
    for leak in leaks:
        for fact, value in zip(leak.facts, leak.values, strict=True):
            found[fact] = max(value, found.get(fact, 0.0))
    return [found[fact] for fact in sorted(found)]
