"""Dry runs: what a run would do, shown before anything is loaded, computed or written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from expunge.cli.console import heading, say, table
from expunge.cli.help import shown
from expunge.config.resolve import Resolved
from expunge.core.checks import ExpungeError
from expunge.core.duration import lasting
from expunge.core.format import counted, in_units

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.core.batch import Encoded
    from expunge.data.corpus import Corpus
    from expunge.evaluation.shown import Shown
    from expunge.training.memory import Work
    from expunge.training.rows import RunRows
    from expunge.training.training_config import TrainingConfig

INCOMPLETE = 1
"""Exit code where something is missing."""


@dataclass
class Problems:
    """What stands in the way of a run, collected so that all of it is said at once."""

    found: list[str] = field(default_factory=list)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep the errors of users in here instead of stopping at the first."""
        try:
            yield
        except ExpungeError as error:
            self.found.append(str(error))

    def concluded(self, *, findings: int = 0) -> int:
        """Say what stands in the way; the exit code.

        Args:
            findings: how many were said above that hold nothing up and are to be looked at.
        """
        if not self.found:
            said = "No problem found: leave out --dry-run to start."
            if findings:
                said = f"{counted(findings, 'finding')} on the data above; leave out --dry-run to start all the same."
            say(f"\nNothing was written. {said}")
            return 0
        heading("Problems")
        for problem in dict.fromkeys(self.found):  # two things may be wrong for the same reason
            say(f"- {problem}")
        return INCOMPLETE


def show_settings(resolved: Resolved[Any], filled: Mapping[str, Any]) -> None:
    """Print every setting with its value and where it came from.

    Args:
        resolved: the configuration.
        filled: for settings left at nothing, the value that the stage takes for them and where that comes from.
    """
    rows = []
    for setting in resolved.known:
        value = resolved.extra.get(setting.name, getattr(resolved.config, setting.name, setting.default))
        origin = resolved.origins[setting.name]
        taken, taken_from = filled.get(setting.name, (None, origin))
        if value in (None, {}) and taken is not None:
            value, origin = taken, taken_from
        rows.append((setting.name, shown(value), origin))
    heading("Settings")
    table(("setting", "value", "from"), rows)


def show_example(row: "Encoded", tokenizer: "PreTrainedTokenizerBase", title: str) -> None:
    """Print a row as the model will see it, each supervised token between marks."""
    from expunge.data.tokenizing import marked

    supervised = len(row.ids) - row.start
    heading(f"{title}: {len(row.ids)} tokens, of which the {supervised} between «» are supervised")
    say(marked_text(marked(row, tokenizer)))


def marked_text(pieces: Sequence[tuple[str, bool]]) -> str:
    """Text with each supervised piece between «»; tabs and line ends are written out, so that nothing is invisible."""
    from expunge.report.text import legible

    shown_pieces = []
    for text, supervised in pieces:
        visible = legible(text).replace("\t", "\\t").replace("\n", "\\n")
        shown_pieces.append((f"«{visible}»" if supervised else visible) + ("\n" if "\n" in text else ""))
    return "".join(shown_pieces)


def show_work(corpus: "Corpus", rows: "RunRows", config: "TrainingConfig", seconds: Callable[[float], float]) -> "Work":
    """Print rows and tokens of every split, the steps of the run, and how long it takes.

    Args:
        corpus: that is read.
        rows: of the run.
        config: how it trains.
        seconds: that training takes at least, from the number of its tokens.
    """
    from expunge.training.memory import work

    size = work(rows, config)
    lines = [(split, str(len(corpus[split])), "-", "-", "-") for split in corpus if split not in rows.encoded]
    for stream, encoded in rows.encoded.items():
        supervised = sum(len(row.ids) - row.start for row in encoded)
        longest = max(len(row.ids) for row in encoded)
        lines.append((stream, str(len(encoded)), str(rows.tokens(stream)), str(supervised), str(longest)))
    heading("Data")
    table(("set", "rows", "tokens", "supervised", "longest row"), lines, numeric=(1, 2, 3, 4))
    say()
    say(
        f"{counted(config.epochs or 0, 'epoch')} of {counted(size.rows, 'row')} in steps of {config.batch_size}: "
        f"{counted(size.steps, 'step')}, {counted(size.micro, 'row')} at once, "
        f"{counted(size.accumulation, 'time')} a step"
    )
    in_all = size.tokens_an_epoch * (config.epochs or 0)
    say(
        f"{size.tokens_an_epoch} tokens an epoch (padding not counted), {in_all:.0f} in all: at least "
        f"{lasting(seconds(in_all))} on one such device, by arithmetic alone"
    )
    return size


def show_shown(found: "Sequence[Shown]") -> None:
    """Print rows and tokens of what a model would be shown."""
    heading("Data (split/asked/answer)")
    lines = [
        (one.name, str(one.rows), str(one.tokens), "-" if one.answers is None else str(one.answers)) for one in found
    ]
    table(("shown", "rows scored", "tokens", "answers generated"), lines, numeric=(1, 2, 3))


def show_importance_memory(on_device: float, beside: float) -> None:
    """Print what the pass before training takes."""
    say(
        f"importance is measured before training, in {in_units(on_device)} on each device"
        + (f" and {in_units(beside)} of the computer's own memory" if beside else "")
    )


def show_mask(told: Mapping[str, Any]) -> None:
    """Print what a mask lets change; `told` is its summary."""
    heading("Mask")
    say(
        f"{told['units']} units ({told['unit']}): {told['weights']} weights may change, {told['share']:.2%} of the "
        "model; all others stay bit for bit as they are"
    )


def show_adapter(name: str, matrices: Sequence[str], numbers: int, weights: int) -> None:
    """Print which matrices an adapter is attached to, and how many numbers are trained of how many in the model."""
    heading("Adapter")
    say(
        f"{name} on {len(matrices)} matrices ({matrices[0]} to {matrices[-1]}): {numbers} numbers are trained, "
        f"{numbers / weights:.2%} of the model's {weights} weights"
    )


def show_memory(parts: Mapping[str, float]) -> None:
    """Print an estimate of memory and its sum."""
    heading("Memory on each device, estimated roughly")
    lines = [(name, in_units(amount)) for name, amount in parts.items()]
    table(("for", "memory"), [*lines, ("together", in_units(sum(parts.values())))], numeric=(1,))
