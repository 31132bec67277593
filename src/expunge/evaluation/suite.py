"""Suites: which metrics are computed on which answers of which model, as data."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from expunge.core.checks import unknown
from expunge.core.records import Records
from expunge.core.results import Definition, Direction, Measure
from expunge.data.corpus import Corpus
from expunge.evaluation.probe import Probe, lacking, merged
from expunge.evaluation.statistics import paired_difference

Whose = Literal["model", "reference", "start"]

OTHERS: tuple[Whose, ...] = ("reference", "start")
_SETUP = ("format", "dtype", "attention", "template", "max_length")
_WHO = {"reference": "retain model", "start": "start model"}


@dataclass(frozen=True)
class View:
    """Rows that a metric is handed: one kind of answer under one model."""

    probe: Probe
    whose: Whose = "model"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One measure of a suite. Of several entries with one name, the first that can be had counts."""

    name: str
    metric: Callable[..., Measure]
    views: Mapping[str, View]
    """What each positional parameter of the metric is handed. Parameters that default to None may go without."""
    options: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[View, ...] = ()
    """Views that must be there although the metric is not handed them: what makes this the right entry of its name."""
    reads: tuple[str, ...] | None = None
    """Columns that it can be computed from; None: those of the metric's definition."""
    better: Direction | None = None
    """Direction of the measure when it is missing and its definition leaves that open."""
    note: str = ""
    """Put before the measure's own note: what a reader must know about this choice of views."""
    made: str = ""
    """Put after the definition: which of the answers or questions were made by rule, and how."""
    on_request: bool = False
    """Only where it is named: it costs more than the rest, or few ask for it."""
    lacks: Callable[[], str] | None = None
    """Why it cannot be computed here whatever the records hold, such as a judge that is not at hand; empty: it can."""

    @property
    def definition(self) -> Definition:
        """The `DEFINITION` beside the metric."""
        found = getattr(sys.modules[self.metric.__module__], "DEFINITION", None)
        return found if isinstance(found, Definition) else Definition(text=self.name, source="", better=self.better)

    def required(self) -> list[View]:
        """The views that it cannot go without."""
        parameters = inspect.signature(self.metric).parameters
        needed = [v for k, v in self.views.items() if parameters[k].default is inspect.Parameter.empty]
        return [*needed, *self.also]


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A measure made of other measures of the suite."""

    name: str
    parts: tuple[str, ...]
    """Measures that it cannot go without."""
    combine: Callable[[Mapping[str, Measure]], Measure]
    """Gets all measures so far; may answer with a measure without a value, and the reason."""
    definition: Definition
    needs: tuple[Whose, ...] = ()
    """Other models whose records must be there."""
    on_request: bool = False


@dataclass(frozen=True)
class Suite:
    """A benchmark: its entries, in the order of reports, and what is made of them."""

    name: str
    entries: tuple[Entry, ...]
    derived: tuple[Derived, ...] = ()
    """Each after the parts that it is made of."""

    @property
    def names(self) -> list[str]:
        """Names of the measures."""
        return list(dict.fromkeys([*(one.name for one in self.entries), *(one.name for one in self.derived)]))

    def select(self, names: Sequence[str] | None) -> "Suite":
        """The suite with these measures only; None: all but those on request.

        Raises:
            ExpungeError: a measure that the suite lacks, with the nearest one that it has.
        """
        if names is None:
            return replace(
                self,
                entries=tuple(e for e in self.entries if not e.on_request),
                derived=tuple(one for one in self.derived if not one.on_request),
            )
        names = [names] if isinstance(names, str) else names
        for name in names:
            if name not in self.names:
                raise unknown(f"measure of the suite '{self.name}'", name, self.names)
        wanted = dict.fromkeys(names)
        for one in reversed(self.derived):  # each stands after its parts
            if one.name in wanted:
                wanted |= dict.fromkeys(one.parts)
        return replace(
            self,
            entries=tuple(e for name in wanted for e in self.entries if e.name == name),
            derived=tuple(one for one in self.derived if one.name in wanted),
        )


@dataclass(frozen=True)
class Sources:
    """Where the rows of each model come from: its records, or a corpus that it can still be shown."""

    model: Records | Corpus
    reference: Records | None = None
    start: Records | None = None
    _rows: dict[View, Records] = field(default_factory=dict, repr=False, compare=False)

    def absent(self, view: View, reads: tuple[str, ...]) -> str:
        """Why a view cannot be had, or only partly; empty where it can."""
        source = getattr(self, view.whose)
        if isinstance(source, Corpus):
            return lacking(source, view.probe)
        if source is None:
            return _no_records(view.whose)
        rows = self.rows(view)
        of = f" of the {_WHO[view.whose]}" if view.whose in _WHO else ""
        if any(rows.has(column) for column in reads):
            same = view.whose == "model" or self._same_examples(view)
            return (
                "" if same else f"the records{of} hold other examples of {view.probe.name}: make them on the same data"
            )
        known = source.manifest.results.get("absent", {}).get(view.probe.name)
        if known:
            return str(known)
        if not len(rows):
            held = ", ".join(source.splits)
            return f"the records{of} hold no {view.probe.name} (split/asked/answer); their splits are {held}"
        return f"the records{of} hold none of {', '.join(reads)} for {view.probe.name}"

    def rows(self, view: View) -> Records:
        """The rows of a view."""
        if view not in self._rows:
            source, probe = getattr(self, view.whose), view.probe
            assert isinstance(source, Records)
            self._rows[view] = source.where(split=probe.split, asked=probe.asked, answer=probe.answer)
        return self._rows[view]

    def setup_differs(self, whose: Whose) -> str:
        """A warning where the model and another one were not measured in the same way; empty where they were."""
        ours, theirs = (getattr(self, who).manifest.arguments for who in ("model", whose))
        differing = [name for name in _SETUP if ours.get(name) != theirs.get(name)]
        if not differing:
            return ""
        how = ", ".join(
            name if isinstance(theirs.get(name), dict) else f"{name} {theirs.get(name)} against {ours.get(name)}"
            for name in differing
        )
        return f"The {_WHO[whose]} was measured in another way ({how}): the comparison is loose."

    def _same_examples(self, view: View) -> bool:
        """Do the rows of another model stand for the model's own examples? Told by their keys, which logs lack."""
        theirs = self.rows(view)
        if not theirs.has("key"):
            return True
        held = dict(zip(theirs.column("index"), theirs.column("key"), strict=True))
        if isinstance(self.model, Corpus):
            if lacking(self.model, view.probe):
                return True
            examples = self.model[view.probe.split]
            return held == {i: examples[i].key for i in view.probe.rows(len(examples))}
        ours = self.rows(View(view.probe))
        return not ours.has("key") or held == dict(zip(ours.column("index"), ours.column("key"), strict=True))


def probes(
    suite: Suite, corpus: Corpus, reference: Records | None, start: Records | None
) -> tuple[list[Probe], dict[str, str]]:
    """What to show a model for a suite, and what cannot be shown, with the reason, by the probe's name.

    The records then serve as those of a retain or start model too, for the same suite and corpus.
    """
    suite, sources = without_substitutes(suite, corpus), Sources(corpus, reference, start)
    wanted: list[Probe] = []
    absent: dict[str, str] = {}
    for name in suite.names:
        entries = [e for e in suite.entries if e.name == name]
        chosen = next((e for e in entries if not _lacks(e, sources)), None)
        for entry in entries if chosen is None else [chosen]:
            for view in entry.views.values():
                reason = lacking(corpus, view.probe)
                if reason and view.whose == "model":
                    absent[view.probe.name] = reason
                elif entry is chosen and not reason:
                    wanted.append(view.probe)
    # What is compared with another model's: this one may be that other model of a later evaluation.
    served = [v.probe for e in suite.entries for v in (*e.views.values(), *e.also) if v.whose != "model"]
    wanted += [probe for probe in served if not lacking(corpus, probe)]
    return merged(wanted), absent


def without_substitutes(suite: Suite, corpus: Corpus) -> Suite:
    """The suite without what would be made by rule although the corpus has its own."""
    own = {
        entry.name
        for entry in suite.entries
        if not entry.made and not any(lacking(corpus, view.probe) for view in entry.views.values())
    }
    return replace(suite, entries=tuple(e for e in suite.entries if not (e.made and e.name in own)))


def missing(suite: Suite, source: Records | Corpus, reference: Records | None, start: Records | None) -> dict[str, str]:
    """The measures that a model's records, or a corpus that it can be shown, cannot give, each with the reason."""
    sources, found = Sources(source, reference, start), {}
    for name in dict.fromkeys(entry.name for entry in suite.entries):
        reasons = [_lacks(entry, sources) for entry in suite.entries if entry.name == name]
        if all(reasons):
            found[name] = "Missing: " + "; or ".join(dict.fromkeys(reasons)) + "."
    for one in suite.derived:
        parts = [part for part in one.parts if part in found]
        others = [whose for whose in one.needs if getattr(sources, whose) is None]
        if parts:
            found[one.name] = f"Missing: it is made of {', '.join(parts)}. {found[parts[0]]}"
        elif others:
            found[one.name] = f"Missing: {_no_records(others[0])}."
    return found


def measure(suite: Suite, records: Records, reference: Records | None, start: Records | None) -> dict[str, Measure]:
    """Every measure of a suite; one that cannot be had has no value and a note that says why."""
    sources, absent = Sources(records, reference, start), missing(suite, records, reference, start)
    found: dict[str, Measure] = {}
    for name in dict.fromkeys(entry.name for entry in suite.entries):
        entries = [e for e in suite.entries if e.name == name]
        if name in absent:
            found[name] = entries[0].definition.missing(absent[name], better=entries[0].better)
        else:
            found[name] = _computed(next(e for e in entries if not _lacks(e, sources)), sources)
    for one in suite.derived:
        known = absent.get(one.name)
        found[one.name] = one.combine(found) if known is None else one.definition.missing(known)
    return found


def _no_records(whose: Whose) -> str:
    who = _WHO[whose]
    return (
        f"no records of a {who} were given. Make them: expunge evaluate model=<{who}> output=<folder>, with the same "
        f"data and suite; then {whose}=<folder>"
    )


def _lacks(entry: Entry, sources: Sources) -> str:
    """Why an entry cannot be computed; empty where it can."""
    reads = entry.reads or entry.definition.reads
    required = entry.required()
    here = entry.lacks() if entry.lacks is not None else ""
    if here:
        return here
    reasons = [reason for view in required if (reason := sources.absent(view, reads))]
    if not required and all(sources.absent(view, reads) for view in entry.views.values()):
        reasons = [sources.absent(view, reads) for view in entry.views.values()]
    return "; ".join(dict.fromkeys(reasons))


def _computed(entry: Entry, sources: Sources) -> Measure:
    reads = entry.reads or entry.definition.reads
    views = {name: sources.rows(view) for name, view in entry.views.items() if not sources.absent(view, reads)}
    result = entry.metric(**views, **entry.options)
    beside = _of_the_start_model(entry, sources) | _differences(entry, sources, result)
    result = replace(result, details={**result.details, **beside})
    compared = {view.whose for name, view in entry.views.items() if name in views}
    compared |= {whose for whose in OTHERS if f"{whose}_difference" in result.details}
    notes = [entry.note, *(sources.setup_differs(whose) for whose in OTHERS if whose in compared), result.note]
    definition = "; ".join(text for text in (result.definition, entry.made) if text)
    return replace(result, definition=definition, note=" ".join(note for note in notes if note))


def _of_the_start_model(entry: Entry, sources: Sources) -> dict[str, float]:
    """The same measure of the start model, where its records hold the same examples."""
    if sources.start is None or any(view.whose == "start" for view in entry.views.values()):
        return {}
    reads = entry.reads or entry.definition.reads
    views = {name: View(view.probe, "start") if view.whose == "model" else view for name, view in entry.views.items()}
    there = {name: sources.absent(view, reads) == "" for name, view in views.items()}
    here = {name: sources.absent(view, reads) == "" for name, view in entry.views.items()}
    if there != here:
        return {}
    held = {name: sources.rows(view) for name, view in views.items() if there[name]}
    found = entry.metric(**held, **entry.options)
    return {} if found.value is None else {"start_value": found.value}


def _differences(entry: Entry, sources: Sources, result: Measure) -> dict[str, float]:
    """Paired differences to the same measure of start and retain model, where it is a mean over the same examples."""
    found: dict[str, float] = {}
    if any(view.whose != "model" for view in entry.views.values()) or not entry.definition.mean:
        return found
    reads = entry.reads or entry.definition.reads
    for whose in OTHERS:
        views = {name: View(view.probe, whose) for name, view in entry.views.items()}
        if getattr(sources, whose) is None or any(sources.absent(view, reads) for view in views.values()):
            continue
        if any(sources.rows(views[k]).column("index") != sources.rows(entry.views[k]).column("index") for k in views):
            continue
        other = entry.metric(**{name: sources.rows(view) for name, view in views.items()}, **entry.options)
        mean, (low, high) = paired_difference(np.array(result.per_example), np.array(other.per_example))
        found[f"{whose}_value"] = float(np.mean(other.per_example))
        found |= {f"{whose}_difference": mean, f"{whose}_difference_low": low, f"{whose}_difference_high": high}
    return found
