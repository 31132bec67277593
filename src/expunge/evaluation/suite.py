"""Suites: which metrics are computed on which answers of which model, as data."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from expunge.core import catalogue
from expunge.core.checks import ExpungeError, unknown
from expunge.data.corpus import Corpus
from expunge.evaluation.bootstrap import paired_interval
from expunge.evaluation.probe import Probe, lacking, merged
from expunge.evaluation.views import Sources, View, Whose, broken, collected, no_records, without_gaps
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

Other = Records | Corpus | None
"""Records of another model, the corpus where they are still to be made, or nothing."""
OTHERS: tuple[Whose, ...] = ("reference", "start")
LOGPROBS = "logprobs"
"""NaN here says that a model broke down, whatever a metric would make of its hits and generations."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One measure of a suite. Of several entries with one name, the first that is available counts."""

    name: str
    metric: Callable[..., Measure]
    views: Mapping[str, View]
    """What each positional parameter of the metric is handed. Parameters that default to None may go without."""
    options: Mapping[str, Any] = field(default_factory=dict)
    requires: tuple[View, ...] = ()
    """Views that must be there although the metric is not handed them: what makes this the right entry of its name."""
    reads: tuple[str, ...] | None = None
    """Columns that it can be computed from; None: those of the metric's definition."""
    gaps: tuple[str, ...] = ()
    """Columns of a log that it also reads, where they are there."""
    better: Direction | None = None
    """Direction of the measure when it is missing and its definition leaves that open."""
    note: str = ""
    """Put before the measure's own note: what a reader must know about this choice of views."""
    derived_by: str = ""
    """Put after the definition: which of the answers or questions were made by rule, and how."""
    on_request: bool = False
    """Only where it is named: it costs more than the rest, or few ask for it."""

    @property
    def definition(self) -> Definition:
        """The `DEFINITION` next to the metric."""
        found = getattr(sys.modules[self.metric.__module__], "DEFINITION", None)
        return found if isinstance(found, Definition) else Definition(text=self.name, source="", better=self.better)

    def unavailable(self) -> str:
        """Why it cannot be computed here whatever the records hold; empty where it can.

        A metric that asks another model, such as a judge, says so in `UNAVAILABLE` next to it.
        """
        check = getattr(sys.modules[self.metric.__module__], "UNAVAILABLE", None)
        return str(check()) if callable(check) else ""

    def required(self) -> list[View]:
        """The views that it cannot go without."""
        parameters = inspect.signature(self.metric).parameters
        needed = [v for k, v in self.views.items() if parameters[k].default is inspect.Parameter.empty]
        return [*needed, *self.requires]


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

    @property
    def splits(self) -> set[str]:
        """The sets that its measures are shown."""
        return {view.probe.split for one in self.entries for view in (*one.views.values(), *one.requires)}

    def select(self, names: Sequence[str] | None) -> "Suite":
        """The suite with these measures only; None: all but those on request.

        Raises:
            ExpungeError: a name that is neither a measure of the suite nor a metric on one set, or two metrics whose
                measures would have one name.
        """
        if names is None:
            return replace(
                self,
                entries=tuple(e for e in self.entries if not e.on_request),
                derived=tuple(one for one in self.derived if not one.on_request),
            )
        names = [names] if isinstance(names, str) else names
        by_name = {name: metric_entry(name, self) for name in names if name not in self.names}
        functions: dict[str, Callable[..., Measure]] = {}
        for name, entry in by_name.items():
            if functions.setdefault(entry.name, entry.metric) is not entry.metric:
                raise ExpungeError(
                    f"{name} and another metric would both be called '{entry.name}'. Rename one of the functions, or "
                    "measure them in two evaluations."
                )
        entries = (*self.entries, *by_name.values())
        wanted = dict.fromkeys(by_name[name].name if name in by_name else name for name in names)
        for one in reversed(self.derived):  # each stands after its parts
            if one.name in wanted:
                wanted |= dict.fromkeys(one.parts)
        return replace(
            self,
            entries=tuple(e for name in wanted for e in entries if e.name == name),
            derived=tuple(one for one in self.derived if one.name in wanted),
        )


def metric_entry(name: str, suite: Suite) -> Entry:
    """A measure that a suite lacks: any metric on the answers of one set, the forget set unless another is named.

    Args:
        name: `repetition`, `retain.repetition`, or `package.module:function`.
        suite: whose measures an unknown name is compared with.

    Raises:
        ExpungeError: neither a measure of the suite nor a metric goes by that name, or the metric needs the rows of
            several views, which only a suite can name.
    """
    split, dot, rest = name.partition(".")
    plain = ":" in name or not dot
    split, metric_name = ("forget", name) if plain else (split, rest)
    if ":" not in name and metric_name.replace("-", "_") not in catalogue.names("metrics"):
        raise unknown(f"measure of the suite '{suite.name}'", name, {*suite.names, *catalogue.names("metrics")})
    metric = catalogue.resolve("metrics", metric_name)
    rows = [p for p in inspect.signature(metric).parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    needed = [p.name for p in rows if p.default is inspect.Parameter.empty]
    if not rows or len(needed) > 1:
        raise ExpungeError(
            f"{name} compares {', '.join(needed) or 'other measures'}, so it needs a suite that says which rows these "
            "are. By its name alone a metric runs where it takes the rows of one set."
        )
    found = Entry(name=f"{split}.{metric.__name__}", metric=metric, views={})
    reads = found.definition.reads
    if not {"logprobs", "hits", "generation"} & {*reads}:
        raise ExpungeError(
            f"{name} reads {', '.join(reads)}, which a model is asked for only by a suite with this metric, such as "
            "tdec."
        )
    probe = Probe(split=split, generate="generation" in reads)
    return replace(found, views={(needed or [rows[0].name])[0]: View(probe)})


def probes(suite: Suite, corpus: Corpus, reference: Other, start: Other) -> tuple[list[Probe], dict[str, str]]:
    """What to show a model for a suite, and what cannot be shown, with the reason, by the probe's name.

    The records then serve as those of a retain or start model too, for the same suite and corpus.
    """
    suite = without_substitutes(suite, corpus)
    computed = available(suite, corpus, reference, start)
    wanted: list[Probe] = []
    absent: dict[str, str] = {}
    for name in suite.names:
        entries = [e for e in suite.entries if e.name == name]
        chosen = computed.get(name)
        for entry in entries if chosen is None else [chosen]:
            for view in entry.views.values():
                reason = lacking(corpus, view.probe)
                if reason and view.whose == "model":
                    absent[view.probe.name] = reason
                elif entry is chosen and not reason:
                    wanted.append(view.probe)
    # What is compared with another model's: this one may be that other model of a later evaluation.
    served = [v.probe for e in suite.entries for v in (*e.views.values(), *e.requires) if v.whose != "model"]
    wanted += [probe for probe in served if not lacking(corpus, probe)]
    return merged(wanted), absent


def without_substitutes(suite: Suite, corpus: Corpus) -> Suite:
    """The suite without what would be made by rule although the corpus has its own."""
    own = {
        entry.name
        for entry in suite.entries
        if not entry.derived_by and not any(lacking(corpus, view.probe) for view in entry.views.values())
    }
    return replace(suite, entries=tuple(e for e in suite.entries if not (e.derived_by and e.name in own)))


def alternatives(reasons: Sequence[str]) -> str:
    """What is lacking, where mending any one of the reasons is enough; what asks for more than another is left out."""
    distinct = dict.fromkeys(reasons)
    return "; or ".join(one for one in distinct if not any(other != one and other in one for other in distinct))


def available(suite: Suite, source: Records | Corpus, reference: Other, start: Other) -> dict[str, Entry]:
    """By name, the entry that is computed: the first of that name that is available."""
    sources, found = Sources(source, reference, start), {}
    for entry in suite.entries:
        if entry.name not in found and not _lacks(entry, sources):
            found[entry.name] = entry
    return found


def missing(suite: Suite, source: Records | Corpus, reference: Other, start: Other) -> dict[str, str]:
    """The measures that are not available, each with the reason; the run and its dry run both ask this.

    Args:
        suite: the measures wanted.
        source: the model's records, or the corpus that it can be shown.
        reference: likewise of the retain model; None: there is none.
        start: likewise of the start model.
    """
    sources, found = Sources(source, reference, start), {}
    for name in dict.fromkeys(entry.name for entry in suite.entries):
        entries = [entry for entry in suite.entries if entry.name == name]
        reasons = [_lacks(entry, sources) for entry in entries]
        if all(reasons):
            # That no log holds the number is no reason to tell where the model could be asked for it.
            own = [reason for entry, reason in zip(entries, reasons, strict=True) if collected(_reads(entry))]
            found[name] = f"Missing: {alternatives(own or reasons)}."
    for one in suite.derived:
        parts = [part for part in one.parts if part in found]
        others = [whose for whose in one.needs if getattr(sources, whose) is None]
        if parts:
            found[one.name] = f"Missing: it is made of {', '.join(parts)}. {found[parts[0]]}"
        elif others:
            found[one.name] = f"Missing: {no_records(others[0])}."
    return found


def measure(suite: Suite, records: Records, reference: Records | None, start: Records | None) -> dict[str, Measure]:
    """Every measure of a suite; one that is not available has no value and a note that says why."""
    sources, absent = Sources(records, reference, start), missing(suite, records, reference, start)
    computed = available(suite, records, reference, start)
    found: dict[str, Measure] = {}
    for name in dict.fromkeys(entry.name for entry in suite.entries):
        entries = [e for e in suite.entries if e.name == name]
        if name in absent:
            found[name] = entries[0].definition.missing(absent[name], better=_direction(entries[0]))
        else:
            found[name] = _computed(computed[name], sources)
    for one in suite.derived:
        valueless = [part for part in one.parts if found[part].value is None]
        known = absent.get(one.name) or (
            f"Missing: it is made of {', '.join(valueless)}. {found[valueless[0]].note}" if valueless else None
        )
        found[one.name] = one.combine(found) if known is None else one.definition.missing(known)
    return found


def _direction(entry: Entry) -> Direction:
    """The direction of a measure without a value: where its definition leaves that open, lower on the forget set."""
    of_forget = any(view.probe.split == "forget" for view in entry.views.values())
    return entry.better or entry.definition.better or ("lower" if of_forget else "higher")


def _reads(entry: Entry) -> tuple[str, ...]:
    return entry.reads or entry.definition.reads


def _lacks(entry: Entry, sources: Sources) -> str:
    """Why an entry cannot be computed; empty where it can."""
    reads = _reads(entry)
    required = entry.required()
    here = entry.unavailable()
    if here:
        return here
    reasons = [reason for view in required if (reason := sources.absent(view, reads))]
    if not required and all(sources.absent(view, reads) for view in entry.views.values()):
        reasons = [sources.absent(view, reads) for view in entry.views.values()]
    return "; ".join(dict.fromkeys(reasons))


def _computed(entry: Entry, sources: Sources) -> Measure:
    reads = _reads(entry)
    absent = {name: sources.absent(view, reads) for name, view in entry.views.items()}
    held = {name: (view, sources.rows(view)) for name, view in entry.views.items() if not absent[name]}
    nan = broken(held, reads, (*entry.gaps, LOGPROBS))
    if nan:
        return entry.definition.missing(f"Missing: {nan}.", better=_direction(entry))
    views, gaps = without_gaps(held, reads, entry.gaps)
    if not all(map(len, views.values())):
        return entry.definition.missing(f"Missing: {gaps}", better=_direction(entry))
    result = entry.metric(**views, **entry.options)
    result = replace(result, details={**result.details, **_beside(entry, sources, result)})
    compared = {view.whose for view, _ in held.values()}
    compared |= {whose for whose in OTHERS if f"{whose}_difference" in result.details}
    unlike = [
        f"Not compared: {absent[name]}."
        for name, view in entry.views.items()
        if absent[name] and view.whose != "model" and getattr(sources, view.whose) is not None
    ]
    lengths = [
        sources.length_differs(View(view.probe, whose))
        for view, _ in held.values()
        for whose in (view.whose, *(OTHERS if view.whose == "model" else ()))
        if whose == "model" or whose in compared
    ]
    setups = [sources.setup_differs(whose) for whose in OTHERS if whose in compared]
    warnings = dict.fromkeys([*unlike, *lengths, *setups])
    notes = [entry.note, *warnings, gaps, result.note]
    definition = "; ".join(text for text in (result.definition, entry.derived_by) if text)
    return replace(result, definition=definition, note=" ".join(note for note in notes if note))


def _beside(entry: Entry, sources: Sources, result: Measure) -> dict[str, float]:
    """The same measure of start and retain model, and where they hold the same examples the difference to it.

    Its interval comes from the resamples of both, in which the same examples are drawn. A metric that is handed rows of
    another model has compared with that one itself.
    """
    found: dict[str, float] = {}
    others_in_it = {view.whose for view in entry.views.values()} - {"model"}
    for whose in OTHERS:
        if getattr(sources, whose) is None or whose in others_in_it or (whose == "reference" and others_in_it):
            continue
        other = _of_another(entry, sources, whose)
        if other is None or other.value is None or other.details.keys() != result.details.keys():
            continue  # of unlike details: made of other parts
        found[f"{whose}_value"] = other.value
        swapped = [view.probe for view in entry.views.values() if view.whose == "model"]
        indices = [[_numbered(entry, sources, View(probe, who)) for probe in swapped] for who in ("model", whose)]
        between = paired_interval(result.interval, other.interval)
        if between is not None and indices[0] == indices[1] and result.n == other.n and result.value is not None:
            low, high = between
            found |= {f"{whose}_difference": result.value - other.value}
            found |= {f"{whose}_difference_low": low, f"{whose}_difference_high": high}
    return found


def _numbered(entry: Entry, sources: Sources, view: View) -> list[int]:
    """Indices of the examples that a view gives a number for."""
    rows, _ = without_gaps({"rows": (view, sources.rows(view))}, _reads(entry), entry.gaps)
    return rows["rows"].column("index")


def _of_another(entry: Entry, sources: Sources, whose: Whose) -> Measure | None:
    """The same measure of another model; None where its records do not hold the same views, or NaN."""
    reads = _reads(entry)
    views = {name: View(view.probe, whose) if view.whose == "model" else view for name, view in entry.views.items()}
    there = {name: sources.absent(view, reads) == "" for name, view in views.items()}
    here = {name: sources.absent(view, reads) == "" for name, view in entry.views.items()}
    if there != here:
        return None
    held = {name: (view, sources.rows(view)) for name, view in views.items() if there[name]}
    if broken(held, reads, (*entry.gaps, LOGPROBS)):
        return None
    rows, _ = without_gaps(held, reads, entry.gaps)
    if not all(map(len, rows.values())):
        return None
    return entry.metric(**rows, **entry.options)
