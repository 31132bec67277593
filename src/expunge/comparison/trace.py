"""From models to the points of a curve; no model is run twice on the same content."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.comparison.areas import COARSE, calibrated
from expunge.comparison.mixing import mixing
from expunge.core.cache import cache_folder, cache_path
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest, fingerprint
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.evaluation.collect import collect, data_identity, identity
from expunge.evaluation.probe import Probe
from expunge.evaluation.suite import Suite, measure, probes
from expunge.evaluation.suites.tradeoff import FORGET, PARAPHRASED, QUALITY, RETAIN, UTILITY, tradeoff
from expunge.results.curves import Point
from expunge.results.measures import Measure
from expunge.results.places import places
from expunge.results.records import FILE, DamagedRecords, Records

CACHE = "records"
"""Folder of the cache for records, each by what it was made of."""


@dataclass(frozen=True)
class Measuring:
    """How every model of a comparison is measured.

    Attributes:
        tokenizer: shared by all models.
        corpus: what they are measured on.
        quality: collect what forget quality and model utility need?
        paraphrased: ask the forget set by paraphrased questions too, as calibration reports?
        retain: records of the retain model, which forget quality compares with.
        template: how questions are framed.
        max_length: longest row in tokens.
        batch_size: rows computed at once; None: as many as fit.
    """

    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    quality: bool = False
    paraphrased: bool = False
    retain: Records | None = None
    template: Template | None = None
    max_length: int = 512
    batch_size: int | None = None

    def records(self, model: nn.Module, *, beside: Path | None = None, progress: Progress | None = None) -> Records:
        """Records of a model: those next to it or in the cache where they are of the same content, else made now.

        Args:
            model: the model.
            beside: folder of the model, in which records of an evaluation may be.
            progress: called with (what, done, total, numbers).
        """
        made = self._identity(model)
        for folder in self._serving(made, beside):
            with suppress(DamagedRecords):  # made anew
                return Records.load(folder)
        found = collect(
            model,
            self.tokenizer,
            self.corpus,
            self.probes,
            template=self.template,
            max_length=self.max_length,
            batch_size=self.batch_size,
            progress=progress,
        )
        found.save(_cached(made))
        return found

    def there(self, model: nn.Module, *, beside: Path | None = None) -> Manifest | None:
        """The manifest of the records that `records` would take instead of the model; None: it would make them."""
        folder = next(self._serving(self._identity(model), beside), None)
        return None if folder is None else Records.manifest_in(folder)

    def possible(self, beside: Path | None = None) -> bool:
        """Are there records, of whatever model, that answer what is asked here? Told without reading any weights."""
        asked = data_identity(
            self.tokenizer, self.corpus, self.probes, template=self.template, max_length=self.max_length
        )
        folders = (*cache_folder(CACHE).iterdir(), *(places(beside) if beside else ()))
        return next(serving(folders, *asked, self.probes), None) is not None

    def _identity(self, model: nn.Module) -> Manifest:
        return identity(
            model, self.tokenizer, self.corpus, self.probes, template=self.template, max_length=self.max_length
        )

    def _serving(self, made: Manifest, beside: Path | None) -> Iterator[Path]:
        folders = (_cached(made), *(places(beside) if beside else ()))
        return serving(folders, made.inputs, made.arguments, self.probes)

    def point(self, records: Records, name: str, at: float = 0.0) -> Point:
        """The point that a model's records give.

        Raises:
            ExpungeError: records without extraction strength on the forget or the retain set.
        """
        found = measure(self._suite(records.splits), records, self.retain, None)
        unplaced = _unplaced(found)
        if unplaced:
            raise ExpungeError(f"the {name} has no place on the curve: {unplaced}")
        quality, paraphrased = found.get(QUALITY), found.get(PARAPHRASED)
        return Point(
            name=name,
            at=at,
            forget=found[FORGET].per_example,
            retain=found[RETAIN].per_example,
            paraphrased=() if paraphrased is None else paraphrased.per_example,
            utility=_value(found.get(UTILITY)),
            log10_quality=None if quality is None or quality.value is None else quality.details["log10_p"],
        )

    def unplaced(self, records: Records) -> str:
        """Why records, such as a log's, give no point; empty where they do."""
        return _unplaced(measure(self._suite(records.splits).select([FORGET, RETAIN]), records, None, None))

    def _suite(self, splits: list[str]) -> Suite:
        # Utility costs generations, and without forget quality nothing asks for it.
        more = [*([QUALITY, UTILITY] if self.quality else []), *([PARAPHRASED] if self.paraphrased else [])]
        return tradeoff(splits).select([FORGET, RETAIN, *more])

    @cached_property
    def probes(self) -> list[Probe]:
        """What each model is asked."""
        wanted, _ = probes(self._suite(list(self.corpus)), self.corpus, self.retain, None)
        return wanted


def _unplaced(found: Mapping[str, Measure]) -> str:
    lacking = [name for name in (FORGET, RETAIN) if found[name].value is None]
    return f"{lacking[0]} is not available. {found[lacking[0]].note}" if lacking else ""


def _value(measure: Measure | None) -> float | None:
    return None if measure is None else measure.value


def _cached(made: Manifest) -> Path:
    """Where the records with a manifest are kept in the cache."""
    return cache_path(CACHE, fingerprint({"inputs": made.inputs, "arguments": made.arguments}))


def serving(
    folders: Iterable[Path], inputs: Mapping[str, str], settings: Mapping[str, Any], wanted: Sequence[Probe]
) -> Iterator[Path]:
    """Those of the folders that hold records of the same, or of more.

    Args:
        folders: may hold records.
        inputs: what the records wanted are made of, as far as it is known.
        settings: how they are made, likewise.
        wanted: what they must answer.
    """
    for folder in folders:
        with suppress(DamagedRecords):
            if (folder / FILE).is_file() and _serve(Records.manifest_in(folder), inputs, settings, wanted):
                yield folder


def _serve(there: Manifest, inputs: Mapping[str, str], settings: Mapping[str, Any], wanted: Sequence[Probe]) -> bool:
    """Do records that were made for more, or for the same, hold what is wanted?"""
    if there.arguments.get("texts", "keep") != "keep":
        return False
    if any(there.inputs.get(k) != v for k, v in inputs.items()):
        return False
    if any(there.arguments.get(k) != v for k, v in settings.items() if k != "probes"):
        return False
    known = {field.name for field in fields(Probe)}
    held = [Probe(**values) for values in there.arguments.get("probes", []) if set(values) <= known]
    return all(any(probe.covers(asked) for probe in held) for asked in wanted)


@contextmanager
def mixed(
    measuring: Measuring,
    start: PreTrainedModel,
    unlearned: PreTrainedModel,
    telling: Callable[[int, str], Progress | None],
) -> Iterator[Callable[[int], Point]]:
    """Let mixtures of two models be asked for their points, by share in hundredths; each is measured once.

    `telling` gives the progress of one measurement from how many there were before and the name of the mixture.
    """
    known: dict[int, Point] = {}
    with mixing(start, unlearned) as mix:

        def point(share: int) -> Point:
            if share not in known:
                mix(share / 100)
                name = f"alpha {share / 100:.2f}" if share else "start model"
                records = measuring.records(start, progress=telling(len(known), name))
                known[share] = measuring.point(records, name, share / 100)
            return known[share]

        yield point


def along_mixing(
    measuring: Measuring,
    start: PreTrainedModel,
    unlearned: PreTrainedModel,
    *,
    level: float,
    telling: Callable[[int, str], Progress | None],
) -> tuple[tuple[Point, ...], Point]:
    """(the points at mixing shares 0, 0.05, ..., 1; the calibrated one).

    Args:
        measuring: how points are measured.
        start: the start model, changed meanwhile and itself again afterwards.
        unlearned: the unlearned model.
        level: share of the start model's retain strength that calibration keeps.
        telling: as for `mixed`.
    """
    with mixed(measuring, start, unlearned, telling) as point:
        points = tuple(point(share) for share in range(0, 101, COARSE))
        return points, point(calibrated(lambda share: point(share).rs, level=level))
