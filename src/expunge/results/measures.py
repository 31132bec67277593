"""What an evaluation says: named measures, each with its direction, interval and definition. No torch here."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from expunge.core.checks import ExpungeError, path_of
from expunge.core.format import columns, number, one_line, power_of_ten
from expunge.core.nested import finite
from expunge.core.sealed import read_sealed, write_sealed
from expunge.results.texts import Texts, text_hash

Direction = Literal["lower", "higher", "near", "neither"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measure(float):
    """One measured number and what is needed to read it.

    It is a number: it compares, adds, rounds and formats as its value, and numpy, pandas and `json.dumps` take it as
    one. Without a value it is NaN, which JSON lacks: `Evaluation.numbers` has None there. Two measures are equal where
    all of their fields are.
    """

    value: float | None
    """The number; None when it is not available, and then `note` says why and what would give it."""
    better: Direction
    """`lower`, `higher`, or `near` the `target`: an AUC of 0 is as wrong as one of 1 when the retain model has 0.5;
    `neither` where no value is better by itself."""
    definition: str
    """Formula or sentence, enough to compute it again."""
    source: str
    """Paper or code that the definition comes from."""
    n: int
    """How many examples the value rests on."""
    target: float | None = None
    interval: tuple[float, float] | None = None
    """95 % interval: percentile bootstrap over examples."""
    per_example: tuple[float, ...] = field(default=(), repr=False)
    details: dict[str, float] = field(default_factory=dict)
    """Companions of the value, such as the statistic behind a p-value."""
    note: str = ""
    """A plain reading or warning, shown wherever the value is shown."""

    def __post_init__(self) -> None:
        """Check that a `near` measure with a value has the target that it should be near to."""
        if self.better == "near" and self.value is not None and self.target is None:
            raise ValueError("a measure whose better direction is 'near' needs a target")
        if self.value is None and not self.note:
            raise ValueError("a measure without a value needs a note that says what is missing")

    def __new__(cls, value: float | None = None, **_: Any) -> "Measure":
        """The number; copies are made with it by position."""
        return super().__new__(cls, math.nan if value is None else value)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Measure):
            return all(getattr(self, one.name) == getattr(other, one.name) for one in fields(self))
        return float(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other  # a float's own != would compare the numbers alone

    def __hash__(self) -> int:
        return hash(self.value)


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What a metric says about itself, kept in its module as `DEFINITION`."""

    text: str
    """Formula or sentence, enough to compute it again."""
    source: str
    """Paper or code that it comes from."""
    better: Direction | None
    """None where it depends on what is measured: lower on the forget set, higher on the retain set."""
    reads: tuple[str, ...] = ("logprobs", "avg_loss")
    """Columns of Records that it can be computed from; any one of them is enough."""
    mean: bool = False
    """Is the value the mean of its per-example values, so that two models can be compared example by example?"""

    def measure(self, value: float, *, n: int, better: Direction | None = None, **more: Any) -> Measure:
        """A measure with this definition and source; `more` are further fields of `Measure`."""
        direction = better or self.better
        if direction is None:
            raise ValueError(
                f"the direction of this measure depends on what is measured, and was not given: {self.text}"
            )
        given = {"definition": self.text, "source": self.source, **more}
        return Measure(value=value, n=n, better=direction, **given)

    def missing(self, note: str, *, better: Direction | None = None) -> Measure:
        """The measure without a value, because of what `note` says."""
        return Measure(
            value=None,
            n=0,
            better=better or self.better or "higher",
            definition=self.text,
            source=self.source,
            note=note,
        )


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One row of a set: the question with the true answer, what the model said, and its numbers row by row."""

    split: str
    question: str
    answer: str
    generation: str | None
    """None where the texts were left out."""
    values: Mapping[str, float | None] = field(default_factory=dict)
    """Value of this row by the name of the measure that it belongs to."""
    probabilities: tuple[float, ...] = ()
    """Of each token of the true answer, the closing one included, to four digits."""
    ends: tuple[int, ...] = ()
    """Where each of these tokens ends in the answer, in characters; empty where that is not known."""

    def with_texts(self, texts: Texts) -> "Sample":
        """The row with its texts, with their SHA-256 in their place, or without; its numbers stay."""
        if texts == "keep":
            return self
        if texts == "drop":
            return replace(self, question="", answer="", generation=None, ends=())
        said = None if self.generation is None else text_hash(self.generation)
        return replace(self, question=text_hash(self.question), answer=text_hash(self.answer), generation=said, ends=())


@dataclass(frozen=True)
class Evaluation(Mapping[str, Measure]):
    """Named measures of one model: `evaluation["forget_quality"].value`."""

    measures: Mapping[str, Measure]
    label: str = "model"
    """What the model is called in tables and plots."""
    suite: str = "default"
    samples: tuple[Sample, ...] = ()
    """Every row of the sets that the model was asked about."""
    about: dict[str, Any] = field(default_factory=dict)
    """How it was measured: template, dtype, fingerprints of model, data and reference, versions."""

    def __getitem__(self, name: str) -> Measure:
        """The measure of that name; a metric that ran by its name alone is that of the forget set, `forget.<metric>`.

        Raises:
            KeyError: there is none; the message lists those that are there.
        """
        for known in (name, f"forget.{name.rpartition(':')[2]}"):
            if known in self.measures:
                return self.measures[known]
        raise KeyError(f"no measure '{name}' in this evaluation; it holds {', '.join(self.measures)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.measures)

    def __len__(self) -> int:
        return len(self.measures)

    def __str__(self) -> str:
        """Every measure with its interval and reading, as a plain table."""
        return evaluation_text(self)

    def numbers(self) -> dict[str, float | None]:
        """Each value by the measure's name, for JSON and data frames; None where there is none, or no finite one."""
        return {name: finite(measure.value) for name, measure in self.items()}

    def with_texts(self, texts: Texts) -> "Evaluation":
        """The evaluation as it is to be saved or shown: with the texts of its rows, with their hashes, or without."""
        if texts == "keep":
            return self
        return replace(self, samples=tuple(one.with_texts(texts) for one in self.samples))

    def labeled(self, label: str) -> "Evaluation":
        """The same evaluation under another label."""
        return replace(self, label=label)

    def save(self, path: str | Path) -> Path:
        """Write as JSON; NaN and infinities, which JSON lacks, are written as null with their name in the details."""
        content = asdict(replace(self, measures={}))
        content["measures"] = {name: asdict(measure) for name, measure in self.measures.items()}
        return write_sealed(Path(path), content)

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """Read what `save` wrote.

        Raises:
            ExpungeError: there is none, or it was changed since.
        """
        path, cure = path_of("path", path), "Make one: expunge evaluate model=... forget=... output=..."
        if not path.is_file():
            raise ExpungeError(f"no evaluation at {path}. {cure}")
        content = read_sealed(path, "an evaluation", cure)
        measures = {}
        for name, known in content.pop("measures").items():
            interval = known.pop("interval")
            per_example = tuple(math.nan if v is None else v for v in known.pop("per_example"))
            measures[name] = Measure(**known, per_example=per_example, interval=tuple(interval) if interval else None)
        samples = tuple(
            Sample(**{**one, **{name: tuple(one.get(name, ())) for name in ("probabilities", "ends")}})
            for one in content.pop("samples")
        )
        return cls(measures=measures, samples=samples, **content)


def value_text(measure: Measure) -> str:
    """A measure's value as shown; `-` where there is none. A p-value that underflowed is written from its `log10_p`."""
    if measure.value is None:
        return "-"
    log10_p = measure.details.get("log10_p")
    if measure.value == 0 and log10_p is not None and math.isfinite(log10_p):
        return power_of_ten(log10_p)
    return number(measure.value)


def interval_text(interval: tuple[float, float] | None) -> str:
    """`0.31–0.36`, `-0.2 – 0.1`, or nothing."""
    if interval is None:
        return ""
    dash = " – " if min(interval) < 0 else "–"
    return dash.join(number(end) for end in interval)


def direction_text(better: Direction | None, target: float | None) -> str:
    """Which way is better, in words."""
    if better == "near":
        return f"nearer to {number(target)} is better" if target is not None else "nearer to its target is better"
    if better == "neither":
        return "neither way is better by itself"
    return f"{better} is better" if better else "which way is better differs between these models"


def lacks_records_of(who: str) -> str:
    """How the note of a measure that compares with another model begins where nothing of that model was given."""
    return f"no records of a {who} were given"


DEFAULT_AUC = "No retain model to compare with: 0.5 is used as its AUC (default_reference)."
"""What the note of a measure says that would compare with the AUC of a retain model that was not given."""

BESIDE = {"start": "start_value", "retain": "reference_value", "chance": "chance"}
"""Columns beside the value, where a measure has them: what is in its details under which name."""
INLINE = 40
"""Longest note that stands in its row; longer ones go below the table."""


def measures_table(result: Evaluation) -> tuple[list[str], list[list[str]], tuple[int, ...], list[str]]:
    """An evaluation as header, rows, right-set columns and footnotes.

    Start model, retain model and chance have columns where they are known.
    """
    beside = [name for name in BESIDE if any(BESIDE[name] in measure.details for measure in result.values())]
    header = ["measure", "value", "95 % interval", *beside, "better", "n", "note"]
    footnotes: dict[str, list[str]] = {}
    rows = []
    for name, measure in result.items():
        known = [measure.details.get(BESIDE[column]) for column in beside]
        rows.append(
            [
                name,
                value_text(measure),
                interval_text(measure.interval),
                *("-" if value is None else number(value) for value in known),
                _better(measure),
                str(measure.n),
                _marked(name, one_line(measure.note), footnotes),
            ]
        )
    notes = [f"[{i}] {text} ({_some_of(concerned)})" for i, (text, concerned) in enumerate(footnotes.items(), start=1)]
    return header, rows, (1, *range(3, 3 + len(beside)), 4 + len(beside)), notes


def _better(measure: Measure) -> str:
    """Which way is better, in as few letters as a column of a terminal has room for."""
    if measure.better != "near":
        return measure.better
    return "near target" if measure.target is None else f"near {number(measure.target)}"


def _marked(name: str, note: str, footnotes: dict[str, list[str]]) -> str:
    """A short note as it is; the marks of what a longer one says, each of which joins the footnotes once."""
    if len(note) <= INLINE:
        return note
    said = _said(note)
    for one in said:
        footnotes.setdefault(one, []).append(name)
    places = list(footnotes)
    return "".join(f"[{places.index(one) + 1}]" for one in said)


def _said(note: str) -> list[str]:
    """What a note says, one by one: its sentences, and of one that says what is missing each reason."""
    found: list[str] = []
    for sentence in _SENTENCE.split(note):
        reasons = _REASON.split(sentence) if sentence.startswith(_MISSING) else [sentence]
        for reason in reasons:
            text = reason.removeprefix(_MISSING).removesuffix(".")
            found.append(f"{_MISSING}{text}." if sentence.startswith(_MISSING) else reason)
    return list(dict.fromkeys(found))


_MISSING = "Missing: "


# A command belongs to the sentence before it.
_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])(?!Make )")


_REASON = re.compile(r"; (?:or )?(?!then )")


_MOST_NAMED = 3


def _some_of(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:_MOST_NAMED])} and {more} more"


def evaluation_text(result: Evaluation) -> str:
    """An evaluation as a readable table with its footnotes."""
    header, rows, numeric, notes = measures_table(result)
    return "\n".join([f"{result.label}, suite {result.suite}", *columns(header, rows, numeric=numeric), *notes])
