"""`expunge experiment tdec`."""

from dataclasses import dataclass, field
from typing import Any

from expunge.cli.console import say, table
from expunge.cli.inputs import corpus_of, source_settings
from expunge.cli.verb import Call, Verb
from expunge.core.checks import ExpungeError, require_at_least, require_between, require_positive
from expunge.core.format import counted
from expunge.core.output import check_output
from expunge.core.progress import shown
from expunge.data.config import DataConfig
from expunge.report.text import words


@dataclass(frozen=True, kw_only=True)
class TdecConfig(DataConfig):
    """What the experiment covers, and where it goes."""

    output: str = "expunge-tdec"
    """Folder for table, models and records."""
    model: str | None = None
    """Folder of the model that recites the forget set, with forget= and holdout=; null: planted texts and the embedded
    model."""
    arms: tuple[str, ...] = ("grad_ascent", "grad_diff")
    """What is compared: grad_ascent, grad_diff, npo, ihl_fila."""
    planted: int = 32
    """Planted texts to forget."""
    facts: int = 4
    """Sentences of a planted text, about 15 tokens each, at most 12."""
    stop_every: float = 2.0
    """Epochs between two looks at EL and MA."""
    stop_rows: int = 32
    """Texts of each set that these looks cover; the table covers all."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Training settings over those of the recipe: `settings.learning_rate=5e-5`."""
    seed: int = 0
    """Of texts, model and training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None and (self.forget or self.path):
            raise ExpungeError("forget= and path= name data, and no model goes with them: model=<folder>.")
        require_at_least("planted", self.planted, 1)
        require_between("facts", self.facts, 1, 12)
        require_positive("stop_every", self.stop_every)
        require_at_least("stop_rows", self.stop_rows, 1)


def tdec(call: Call[TdecConfig]) -> int:
    """Forget recited texts until they come out of the model no more than text that it never saw.

    Without a model it plants invented texts in the embedded one; with a model it needs forget= and holdout= texts, of
    source=tdec or source=files.
    """
    config = call.config
    check_output(config.output, overwrite=call.overwrite)
    from expunge.experiments.tdec import tdec as recipe

    with shown() as report:
        made = recipe(
            config.output,
            corpus=None if config.model is None else corpus_of(config, call.resolved.more),
            start=config.model,
            arms=config.arms,
            sequences=config.planted,
            facts=config.facts,
            stop_every=config.stop_every,
            stop_rows=config.stop_rows,
            settings=config.settings,
            seed=config.seed,
            overwrite=call.overwrite,
            progress=report,
        )
    lines = [(str(row["model"]), *(f"{row[name]:.4g}" for name in made.measures)) for row in made.rows]
    table(("model", *map(words, made.measures)), lines, numeric=tuple(range(1, len(made.measures) + 1)))
    say()
    for row in made.rows[1:]:
        there = "forgotten" if row["forgotten"] else "not forgotten"
        took = f"{counted(row['steps'], 'step')}, {row['seconds']:.0f} s"
        say(f"{row['model']}: {there} after {took}. {row['stopped'] or ''}")
    level = ", ".join(f"{words(name)} {value:.4g}" for name, value in made.levels.items())
    say(f"forgotten is what lies at or below the start model's level on unseen text: {level}")
    say(f"\ntable: {made.folder / 'tdec.json'}")
    return 0


VERB = Verb(
    name="experiment tdec",
    config=TdecConfig,
    run=tdec,
    more=source_settings,
    flags=("overwrite",),
    note="Example: expunge experiment tdec planted=16 arms=grad_ascent",
)
