"""What an evaluation says: named measures, each with its direction, interval and definition. No torch here."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from expunge.core.checks import ExpungeError

Direction = Literal["lower", "higher", "near"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measured number and what is needed to read it."""

    value: float | None
    """The number; None when it could not be had, and then `note` says why and what would give it."""
    better: Direction
    """`lower`, `higher`, or `near` the `target`: an AUC of 0 is as wrong as one of 1 when the retain model has 0.5."""
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

    def __float__(self) -> float:
        """The value, so that a measure can stand where a number is wanted; NaN when there is none."""
        return math.nan if self.value is None else float(self.value)

    def __format__(self, specification: str) -> str:
        """The value in a number's format, `f"{measure:.3f}"`; without one, the measure as text."""
        return format(float(self), specification) if specification else str(self)


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

    def measure(self, value: float, *, n: int, better: Direction | None = None, **fields: Any) -> Measure:
        """A measure with this definition and source; `fields` are further fields of `Measure`."""
        direction = better or self.better
        if direction is None:
            raise ValueError(
                f"the direction of this measure depends on what is measured, and was not given: {self.text}"
            )
        given = {"definition": self.text, "source": self.source, **fields}
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
    """One question with the true answer and what the model said, for a reader's eye."""

    split: str
    question: str
    answer: str
    generation: str


@dataclass(frozen=True)
class Evaluation(Mapping[str, Measure]):
    """Named measures of one model: `evaluation["forget_quality"].value`."""

    measures: Mapping[str, Measure]
    label: str = "model"
    """What the model is called in tables and plots."""
    suite: str = "default"
    samples: tuple[Sample, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    """How it was measured: template, dtype, fingerprints of model, data and reference, versions."""

    def __getitem__(self, name: str) -> Measure:
        """The measure of that name; the error lists those that are there."""
        try:
            return self.measures[name]
        except KeyError:
            raise KeyError(f"no measure '{name}' in this evaluation; it holds {', '.join(self.measures)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.measures)

    def __len__(self) -> int:
        return len(self.measures)

    def __str__(self) -> str:
        """Every measure with its interval and reading, as a plain table."""
        from expunge.core.wording import evaluation_text  # it imports this module

        return evaluation_text(self)

    def labeled(self, label: str) -> "Evaluation":
        """The same evaluation under another label."""
        return replace(self, label=label)

    def save(self, path: str | Path) -> Path:
        """Write as JSON; NaN and infinities, which JSON lacks, are written as null with their name in the details."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = asdict(replace(self, measures={}))
        content["measures"] = {name: asdict(measure) for name, measure in self.measures.items()}
        path.write_text(json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """Read what `save` wrote."""
        path = Path(path)
        if not path.is_file():
            raise ExpungeError(f"no evaluation at {path}. Make one: expunge evaluate model=... forget=... output=...")
        content = json.loads(path.read_text("utf-8"))
        measures = {}
        for name, fields in content.pop("measures").items():
            interval = fields.pop("interval")
            per_example = tuple(math.nan if v is None else v for v in fields.pop("per_example"))
            measures[name] = Measure(**fields, per_example=per_example, interval=tuple(interval) if interval else None)
        samples = tuple(Sample(**s) for s in content.pop("samples"))
        return cls(measures=measures, samples=samples, **content)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
