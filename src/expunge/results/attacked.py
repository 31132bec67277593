"""What attacks drew out of a model, fact by fact, next to what the same attacks draw out of one that never knew.

No torch and no model here. F = facts: the examples of the forget set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from expunge.core.checks import ExpungeError, path_of
from expunge.core.format import number
from expunge.core.manifest import versions
from expunge.core.sealed import read_sealed, write_sealed
from expunge.results.robustness import resistance, stability
from expunge.results.texts import Texts, is_hash, text_hash

FILE = "attacked.json"
FORMAT = 2
READABLE = (1, 2)
"""Formats that are read; the first one has the values of the last step alone."""
OLD = "an earlier version counted the last step alone"
RESAMPLES = 1000
GAIN = 0.01
"""Change of the mean value along an attack below which it counts as noise: one answer of a hundred."""

PLAIN = "plain"
"""The column of the model as it is, asked as in the forget set."""
MERGED = "merged"
"""The column of a model with adapters after they are merged into its weights, which all other attacks are run on."""

NOTHING = "nothing"
"""In place of a control: none is attacked."""


def check_not_nothing(control: object) -> None:
    """Raise where `nothing` is named as a control of what is only compared: just a result of its own may lack one."""
    if control == NOTHING:
        raise ExpungeError(
            f"control={NOTHING} is for `expunge attack`, whose result may then be a control of others. Here, leave "
            f"control out, or name a model that never saw the rows. A folder of that name is ./{NOTHING}."
        )


Status = Literal["ran", "not run", "no control"]
Control = Literal["retain model", "model that never saw the rows", "untaught facts"]


class CannotRun(ExpungeError):
    """Raised by an attack that this corpus or model gives nothing to attack with; its text is the reason.

    The attack is then listed as not run, with that reason, and the others go on.
    """


@dataclass(frozen=True, kw_only=True)
class Leak:
    """What one attack, or one form of it, drew out of one model."""

    name: str
    """The attack, and after a dot its form: `quantize.nf4`."""
    measure: str
    """What the values are: `extraction strength`."""
    facts: tuple[int, ...]
    """Positions in the forget set of the facts that have a value, ascending."""
    values: tuple[float, ...]
    """How much came out of each of them, in [0, 1]; 1: all."""
    prompts: tuple[str, ...] = ()
    """What the model was asked; empty: the forget set's own questions."""
    texts: tuple[str, ...] = ()
    """What it said; empty where nothing was generated."""
    curve: tuple[tuple[float, float], ...] = ()
    """(steps, mean value) along an attack that goes on step by step."""
    by_point: tuple[tuple[float, ...], ...] = ()
    """The values of the facts at each point of the curve; empty where the last ones are all that count."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Further numbers and settings."""
    needs_control: bool = False
    """Does it draw out anything, known or not, so that it says nothing without a control?"""
    not_run: str = ""
    """Why this form of an attack has no values; empty where it was run."""

    def __post_init__(self) -> None:
        if len(self.facts) != len(self.values) or any(not 0 <= value <= 1 for value in self.values):
            raise ExpungeError(
                f"the attack {self.name} gave {len(self.values)} values for {len(self.facts)} facts; it needs one in "
                "[0, 1] for each."
            )
        if self.by_point and (
            len(self.by_point) != len(self.curve)
            or any(len(point) != len(self.facts) for point in self.by_point)
            or self.by_point[-1] != self.values
        ):
            raise ExpungeError(
                f"the attack {self.name} gave values at {len(self.by_point)} points of a curve of {len(self.curve)}; "
                "it needs one for each fact at each point, the last of them those that it ends with."
            )

    @property
    def by_step(self) -> dict[float | None, dict[int, float]]:
        """By step, the value of each fact: after each step that was measured, not before the first; None: the end."""
        if not self.by_point:
            return {None: dict(zip(self.facts, self.values, strict=True))}
        later = zip(self.curve[1:], self.by_point[1:], strict=True)
        return {step: dict(zip(self.facts, values, strict=True)) for (step, _), values in later}


@dataclass(frozen=True)
class Reached:
    """What an attack drew out about a fact, at the step where it was furthest above the control."""

    value: float
    control: float | None
    """The same of the control at that step; None where there is none."""
    step: float | None
    """After how many steps; None: the attack was not measured along the way."""

    @property
    def recovery(self) -> float:
        """How much more came out of the model than of the control; without a control the value itself."""
        return self.value - (self.control or 0.0)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One attack on the model and on its control."""

    leak: Leak | None
    """What came out of the model; None where the attack was not run."""
    control: Leak | None
    """What came out of the control."""
    name: str
    threshold: float
    """Recovery above the control from which on a fact counts as leaking; declared before anything was measured."""
    note: str = ""
    """Why it was not run, or what a reader must know."""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.leak and self.control and self.leak.measure != self.control.measure:
            raise ExpungeError(
                f"{self.name}: the model's values are {self.leak.measure}, the control's {self.control.measure}. "
                "Attack the control again, with this version."
            )
        if self.leak and self.control and self.leak.by_step.keys() != self.control.by_step.keys():
            raise ExpungeError(
                f"{self.name}: the control was not measured after the same steps as the model. Attack the control "
                "again, with this version and the settings of this attack."
            )

    @property
    def status(self) -> Status:
        """Whether it was run, and with what it was compared."""
        if self.leak is None:
            return "not run"
        return "ran" if self.control is not None or not self.leak.needs_control else "no control"

    @property
    def reached(self) -> dict[int, Reached]:
        """By fact, what came out at the step where it was furthest above the control, the first of equals.

        Facts that both have a value for; without a control all, and none for an attack that says nothing without one.
        """
        found: dict[int, Reached] = {}
        for step, pairs in self._pairs.items():
            for fact, (value, control) in pairs.items():
                here = Reached(value, control, step)
                if fact not in found or here.recovery > found[fact].recovery:
                    found[fact] = here
        return found

    @property
    def recovery(self) -> dict[int, float]:
        """By fact, how much more came out of the model than of the control, at the step where that was most."""
        return {fact: here.recovery for fact, here in self.reached.items()}

    @property
    def _pairs(self) -> dict[float | None, dict[int, tuple[float, float | None]]]:
        """By step and fact, the value of the model and that of the control."""
        if self.leak is None or self.status == "no control":
            return {}
        own = self.leak.by_step
        if self.control is None:
            return {step: {fact: (value, None) for fact, value in of.items()} for step, of in own.items()}
        other = self.control.by_step
        return {
            step: {fact: (value, other[step][fact]) for fact, value in of.items() if fact in other[step]}
            for step, of in own.items()
        }

    @property
    def _last(self) -> dict[int, float]:
        """By fact, the recovery at the end of the attack."""
        *_, pairs = self._pairs.values() or [{}]
        return {fact: Reached(value, control, None).recovery for fact, (value, control) in pairs.items()}

    @property
    def mean(self) -> float | None:
        """Mean recovery over the facts, at the end of the attack: a mean of largest values would be above 0 by luck."""
        return float(np.mean(list(self._last.values()))) if self._last else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean recovery: percentile bootstrap over facts, model and control drawn as pairs."""
        values = np.array(list(self._last.values()))
        if len(values) < 2:
            return None
        drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
        low, high = np.quantile(values[drawn].mean(1), [0.025, 0.975])
        return float(low), float(high)

    @property
    def leaking(self) -> tuple[int, ...]:
        """The facts whose recovery is at least the threshold, after whichever step."""
        return tuple(fact for fact, value in self.recovery.items() if value >= self.threshold)

    @property
    def passed(self) -> str:
        """That some facts leaked at an earlier step than the last alone, as the means do not show; else empty."""
        last, leaking = self._last, self.leaking
        gone = sum(last[fact] < self.threshold for fact in leaking)
        if not gone:
            return ""
        of = f"{gone} of the {len(leaking)} leaking facts"
        return f"Under {self.name}, {of} leaked on the way, no longer at the last step."

    def untested(self, facts: int) -> str:
        """That this attack draws facts out and says nothing about others, of so many; empty where it does not."""
        return untested(self.name, len(self.recovery), len(self.leaking), facts)


def untested(attack: str, tested: int, leaking: int, facts: int) -> str:
    """A sentence where an attack that draws facts out left others untested; else empty.

    Relearning on half of the forget set says nothing about that half.

    Args:
        attack: its name.
        tested: facts that it has a value for.
        leaking: those of them that leak.
        facts: how many there are.
    """
    if not leaking or tested == facts:
        return ""
    leak = "leaks" if leaking == 1 else "leak"
    return (
        f"The attack {attack} tested {tested} of {facts} facts, and {leaking} of these {leak}; it says nothing about "
        "the others."
    )


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """Attacks on one model: a column each, facts as rows."""

    columns: tuple[Column, ...]
    questions: tuple[str, ...]
    """Of the F facts, in the order of the forget set; their SHA-256 where texts are left out."""
    answers: tuple[str, ...]
    """The true answers, likewise; or empty."""
    control: Control | None
    """What the model was compared with; None: with nothing."""
    label: str = "model"
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Digests of model, control, tokenizer and data."""

    def __getitem__(self, name: str) -> Column:
        """The column of this name; a KeyError names those that are there."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"no attack is called {name!r}; there are {', '.join(column.name for column in self.columns)}")

    @property
    def worst(self) -> dict[int, tuple[str, float]]:
        """By fact, the attack with the largest recovery, and that recovery."""
        found: dict[int, tuple[str, float]] = {}
        for column in self.columns:
            for fact, value in column.recovery.items():
                if fact not in found or value > found[fact][1]:
                    found[fact] = (column.name, value)
        return dict(sorted(found.items()))

    @property
    def leaking(self) -> tuple[int, ...]:
        """The facts that leak in at least one attack."""
        return tuple(sorted({fact for column in self.columns for fact in column.leaking}))

    @property
    def resistance(self) -> dict[str, float]:
        """R by attack that trains: how little faster the model relearns than a control that never knew.

        From the start and the end of the two curves. Empty where the control is no other model, and without the attacks
        of `no_resistance`.
        """
        return {
            name: resistance(own, other) for name, (own, other) in self._ends.items() if name not in self.no_resistance
        }

    @property
    def no_resistance(self) -> dict[str, str]:
        """By attack that trains, why it has no R: nothing came back, so that R would be a quotient of noise."""
        return {
            name: f"nothing came back (model {_signed(own)}, control {_signed(other)}; below {GAIN} is noise)"
            for name, (own, other) in self._ends.items()
            if max(abs(_gain(own)), abs(_gain(other))) < GAIN
        }

    @property
    def _ends(self) -> dict[str, tuple[tuple[float, float], tuple[float, float]]]:
        """By attack that trains, mean value before and after of the model and of a control that never knew."""
        if self.control in (None, "untaught facts"):
            return {}
        return {
            column.name: (_ends(column.leak), _ends(column.control))
            for column in self.columns
            if column.leak and column.leak.curve and column.control and column.control.curve
        }

    @property
    def stability(self) -> dict[str, float]:
        """Q by form of quantization: how little comes back when the weights are rounded; from mean values."""
        plain = next((column.leak for column in self.columns if column.name == PLAIN), None)
        if plain is None or not plain.values:
            return {}
        before = float(np.mean(plain.values))
        return {
            column.name: stability(before, float(np.mean(column.leak.values)))
            for column in self.columns
            if column.name.startswith("quantize.") and column.leak and column.leak.values
        }

    def table(self) -> tuple[Sequence[str], list[tuple[str, ...]], Sequence[int]]:
        """Header, one row an attack, and which columns are numbers."""
        rows: list[tuple[str, ...]] = []
        for column in self.columns:
            mean, interval = column.mean, column.interval
            own = number(float(np.mean(column.leak.values))) if column.leak and column.leak.values else "-"
            other = number(float(np.mean(column.control.values))) if column.control and column.control.values else "-"
            above = "-" if mean is None else number(mean)
            between = "" if interval is None else f"{number(interval[0])} to {number(interval[1])}"
            leaks = "-" if not column.recovery else f"{len(column.leaking)} of {len(column.recovery)}"
            rows.append((column.name, own, other, above, between, leaks, column.note or column.status))
        header = ("attack", "model", "control", "recovery", "95 % interval", "facts leaking", "status")
        return header, rows, (1, 2, 3, 4, 5)

    def text(self) -> str:
        """What came of it, in a sentence or two."""
        ran = [column for column in self.columns if column.status == "ran"]
        if not ran:
            return "No attack gave a verdict."
        compared = f"compared with the {self.control}" if self.control else "without a control"
        leaking = f"{len(self.leaking)} of {len(self.questions)} facts leak"
        lines = [f"{leaking} in at least one of {len(ran)} attacks, {compared}."]
        lines += filter(None, (column.untested(len(self.questions)) for column in ran))
        lines += filter(None, (column.passed for column in ran))
        for title, values in (
            ("Resistance to relearning (R, 1: no faster than the control)", self.resistance),
            ("Stability under quantization (Q, 1: nothing comes back)", self.stability),
        ):
            if values:
                lines.append(f"{title}: {', '.join(f'{name} {number(value)}' for name, value in values.items())}.")
        lines += [f"No R for {name}: {why}." for name, why in self.no_resistance.items()]
        others = [column for column in self.columns if column.status != "ran"]
        lines += [f"{column.name}: {column.status}. {column.note}".strip() for column in others]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """All of it, as `load_attacked` reads it."""
        scores = {"resistance": self.resistance, "no_resistance": self.no_resistance, "stability": self.stability}
        return {"format": FORMAT, "versions": versions(), **asdict(self), **scores}

    @property
    def asked(self) -> tuple[str, ...]:
        """The hashes of the questions, by which two results are about the same facts, with texts or without."""
        return tuple(question if is_hash(question) else text_hash(question) for question in self.questions)

    def with_texts(self, texts: Texts) -> "Attacked":
        """The same with its texts (`keep`), their SHA-256 (`hash`), or none (`drop`).

        The hashes of the questions always stay, so that the result can be the control of other models. A prefix that
        was sought on true answers may hold their words, and goes as prompts do.
        """
        if texts == "keep":
            return self

        def hidden(of: Sequence[str]) -> tuple[str, ...]:
            return tuple(map(text_hash, of)) if texts == "hash" else ()

        def without(leak: Leak | None) -> Leak | None:
            if leak is None:
                return None
            about = {name: value for name, value in leak.about.items() if name != "prefix"}
            return replace(leak, prompts=hidden(leak.prompts), texts=hidden(leak.texts), about=about)

        columns = (replace(one, leak=without(one.leak), control=without(one.control)) for one in self.columns)
        return replace(self, columns=tuple(columns), questions=self.asked, answers=hidden(self.answers))

    def save(self, folder: str | Path) -> Path:
        """Write `attacked.json` into a folder, whole or not at all."""
        return write_sealed(Path(folder) / FILE, self.as_json())


def load_attacked(path: str | Path) -> Attacked:
    """Read what `Attacked.save` wrote, from its folder or file.

    Raises:
        ExpungeError: it is missing, broken, changed since, or of another format.
    """
    path, cure = path_of("path", path), "Make it: expunge attack ..."
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise ExpungeError(f"no result of an attack at {path}. {cure}")
    content = read_sealed(path, "the result of an attack", cure)
    if content.get("format") not in READABLE:
        raise ExpungeError(f"{path} is not the result of an attack in format {FORMAT}. {cure}")
    columns = tuple(
        Column(**{**column, "leak": _leak(column["leak"]), "control": _leak(column["control"])})
        for column in content["columns"]
    )
    if content["format"] == 1:
        columns = tuple(
            replace(one, note=OLD) if one.leak and one.leak.curve and not one.note else one for one in columns
        )
    known = {name: content[name] for name in ("control", "label", "settings", "inputs")}
    return Attacked(columns=columns, questions=tuple(content["questions"]), answers=tuple(content["answers"]), **known)


def _leak(content: Mapping[str, Any] | None) -> Leak | None:
    if content is None:
        return None
    listed = {name: tuple(content[name]) for name in ("facts", "values", "prompts", "texts")}
    nested = {name: tuple(map(tuple, content[name])) for name in ("curve", "by_point") if name in content}
    return Leak(**{**content, **listed, **nested})  # type: ignore[arg-type]


def _ends(leak: Leak) -> tuple[float, float]:
    return leak.curve[0][1], leak.curve[-1][1]


def _gain(ends: tuple[float, float]) -> float:
    return ends[1] - ends[0]


def _signed(ends: tuple[float, float]) -> str:
    gain = _gain(ends)
    return f"{'+' if gain > 0 else ''}{number(gain)}"
