"""Views: where the rows that a metric is handed come from, and why some are not available."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from expunge.data.corpus import Corpus
from expunge.evaluation.probe import CUT, Probe, lacking
from expunge.results.measures import lacks_records_of
from expunge.results.records import SCHEMA, TEXTS, TOKENS, Records

Whose = Literal["model", "reference", "start"]

_SETUP = ("format", "dtype", "attention", "template", "max_length")
_OF_THE_MODEL = "Make them of the model itself: expunge evaluate model=<model> output=<folder>"
_WHO = {"reference": "retain model", "start": "start model"}


@dataclass(frozen=True)
class View:
    """Rows that a metric is handed: one kind of answer under one model."""

    probe: Probe
    whose: Whose = "model"


def collected(reads: tuple[str, ...]) -> bool:
    """Can a model of ours be shown something for one of these columns, or do only other programs' logs hold them?"""
    return any(column in SCHEMA.names for column in reads)


@dataclass(frozen=True)
class Sources:
    """Where the rows of each model come from: its records, or a corpus that it can still be shown."""

    model: Records | Corpus
    reference: Records | Corpus | None = None
    start: Records | Corpus | None = None
    _rows: dict[View, Records] = field(default_factory=dict, repr=False, compare=False)

    def absent(self, view: View, reads: tuple[str, ...]) -> str:
        """Why a view is not available, or only partly; empty where it is."""
        source = getattr(self, view.whose)
        if isinstance(source, Corpus):
            return lacking(source, view.probe) if collected(reads) else "only another program's log can hold it"
        if source is None:
            return no_records(view.whose)
        rows = self.rows(view)
        of = f" of the {_WHO[view.whose]}" if view.whose in _WHO else ""
        if _column(rows, reads) is not None:
            same = view.whose == "model" or self._same_examples(view)
            return (
                "" if same else f"the records{of} hold other examples of {view.probe.name}: make them on the same data"
            )
        known = source.manifest.results.get("absent", {})
        for name in (*(f"{view.probe.name}/{column}" for column in reads), view.probe.name):
            if name in known:
                return str(known[name]) + (f". {_OF_THE_MODEL}" if _is_log(source) else "")
        if len(rows) and source.texts != "keep" and {*reads} & {*TEXTS, *TOKENS}:
            return f"the records{of} were saved without texts (texts={source.texts}). {_OF_THE_MODEL}"
        what = f"no {view.probe.name} (split/asked/answer) but the splits {', '.join(source.splits)}"
        if len(rows):
            what = f"none of {', '.join(reads)} for {view.probe.name}"
        return f"the records{of} hold {what}. {_OF_THE_MODEL}"

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

    def length_differs(self, view: View) -> str:
        """A warning where records made for another suite hold longer or shorter texts than asked for here, else empty.

        A generation is as long as it was let grow; some kinds of answer are cut at a number of tokens.
        """
        source, probe = getattr(self, view.whose), view.probe
        if not isinstance(source, Records) or not (probe.generate or probe.answer in CUT):
            return ""
        for held in source.manifest.arguments.get("probes", []):
            if (held["split"], held["asked"], held["answer"]) == (probe.split, probe.asked, probe.answer):
                if held["max_new_tokens"] != probe.max_new_tokens:
                    of = f" of the {_WHO[view.whose]}" if view.whose in _WHO else ""
                    return (
                        f"The records{of} hold {probe.name} at up to {held['max_new_tokens']} tokens, where this suite "
                        f"takes {probe.max_new_tokens}: not the value of records made for it."
                    )
        return ""

    def _same_examples(self, view: View) -> bool:
        """Do the rows of another model stand for the model's own examples? Told by their keys, for logs by how many."""
        theirs = self.rows(view)
        if isinstance(self.model, Corpus):
            if lacking(self.model, view.probe):
                return True
            examples = self.model[view.probe.split]
            ours = {i: examples[i].key for i in view.probe.rows(len(examples))}
        else:
            own = self.rows(View(view.probe))
            if not len(own):
                return True
            keys = own.column("key") if own.has("key") else [""] * len(own)
            ours = dict(zip(own.column("index"), keys, strict=True))
        if theirs.has("key") and all(ours.values()):
            return ours == dict(zip(theirs.column("index"), theirs.column("key"), strict=True))
        return bool(max(ours) == max(theirs.column("index")))


def no_records(whose: Whose) -> str:
    """How to come by the records of another model."""
    who = _WHO[whose]
    return (
        f"{lacks_records_of(who)}. Make them: expunge evaluate model=<{who}> output=<folder>, with the same "
        f"data and suite; then {whose}=<folder>"
    )


def without_gaps(
    views: Mapping[str, tuple[View, Records]], reads: tuple[str, ...], also: tuple[str, ...] = ()
) -> tuple[dict[str, Records], str]:
    """Rows of logs without the examples for which one of the views has no number, and a note that counts them.

    Our own records have no such gaps: what they lack is an error.

    Args:
        views: by parameter of the metric, the view and its rows.
        reads: columns that the metric can be computed from.
        also: further columns, of which each view may hold none at all.
    """
    every: dict[str, set[int]] = {}
    gaps: dict[str, set[int]] = {}
    for view, rows in views.values():
        every.setdefault(view.probe.split, set()).update(rows.column("index"))
    for view, rows in views.values():
        if _is_log(rows):
            split = view.probe.split
            index = rows.numbers("index").astype(int)
            lacks = every[split] - set(index.tolist())
            for column in (_column(rows, reads), *(name for name in also if _some(rows, name))):
                if column is not None:
                    lacks |= set(index[rows.table[column].is_null().to_numpy()].tolist())
            gaps.setdefault(split, set()).update(lacks)
    gaps = {split: lacks for split, lacks in gaps.items() if lacks}
    told = [
        f"{len(lacks)} of {len(every[split])} examples of {split} have no number in a log and are left out."
        for split, lacks in gaps.items()
    ]
    return {name: _leaving_out(rows, gaps.get(view.probe.split)) for name, (view, rows) in views.items()}, " ".join(
        told
    )


def _leaving_out(rows: Records, index: set[int] | None) -> Records:
    if not index:
        return rows
    keep = np.isin(rows.numbers("index").astype(int), list(index), invert=True)
    return Records(rows.table.filter(keep), rows.manifest)


def broken(views: Mapping[str, tuple[View, Records]], reads: tuple[str, ...], also: tuple[str, ...] = ()) -> str:
    """Why nothing can be made of rows that hold NaN, which a mean or a rank would hide; empty where none do."""
    for view, rows in views.values():
        for column in dict.fromkeys((_column(rows, reads), *(name for name in also if _some(rows, name)))):
            n = 0 if column is None else sum(_nans(rows, column))
            if n:
                of = _WHO.get(view.whose, "model")
                return (
                    f"{n} of {len(rows)} rows of {view.probe.name} are not a number (NaN in {column}): the {of} broke "
                    "down on them, and what is left says nothing about it"
                )
    return ""


def _nans(rows: Records, column: str) -> Iterator[bool]:
    values = rows.table[column]
    if str(values.type) in ("double", "float"):
        yield from pc.is_nan(values).fill_null(False).to_pylist()
    elif str(values.type).startswith("list") and str(values.type.value_type) in ("double", "float"):
        yield from (bool(np.isnan(array).any()) for array in rows.arrays(column))


def _column(rows: Records, reads: tuple[str, ...]) -> str | None:
    """The first of these columns that holds a number for every row, in a log for some."""
    holds = _some if _is_log(rows) else Records.has
    return next((column for column in reads if holds(rows, column)), None)


def _some(rows: Records, column: str) -> bool:
    return column in rows.table.column_names and rows.table[column].null_count < len(rows)


def _is_log(rows: Records) -> bool:
    return "format" in rows.manifest.arguments
