"""`expunge experiment wagle`."""

from dataclasses import dataclass, field
from typing import Any

from expunge.cli.console import say, table
from expunge.cli.inputs import corpus_of, source_settings
from expunge.cli.verb import Call, Verb
from expunge.core.checks import ExpungeError, require_at_least
from expunge.core.progress import shown
from expunge.data.config import DataConfig


@dataclass(frozen=True, kw_only=True)
class WagleConfig(DataConfig):
    """What the experiment covers, and where it goes."""

    output: str = "expunge-wagle"
    """Folder for the table; what is finished there is not run again."""
    model: str | None = None
    """Folder of the start model, with data such as `source=tofu path=... forget=forget10`; null: the embedded
    default."""
    methods: tuple[str, ...] = ("npo",)
    """Of grad_diff, npo and idk."""
    arms: tuple[str, ...] = ("dense", "random", "magnitude", "wanda", "lora", "wagle")
    """All weights (dense), those that an attribution picks, or a LoRA."""
    ratios: tuple[float, ...] = (0.8,)
    """Shares of the linear layers' weights that a mask lets change."""
    seeds: int = 1
    """How often each cell is repeated."""
    grid: tuple[float, ...] = ()
    """Learning rates to choose each cell's from, on a seed of its own, such as `3e-5,1e-4,3e-4,1e-3`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Training settings over those of the recipe, for all runs: `settings.epochs=2 settings.learning_rate=1e-4`."""
    authors: int = 60
    """Invented authors of the embedded default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None and (self.forget or self.path):
            raise ExpungeError("forget= and path= name data, and no model goes with them: model=<folder>.")
        require_at_least("seeds", self.seeds, 1)
        require_at_least("authors", self.authors, 2)


def wagle(call: Call[WagleConfig]) -> int:
    """Unlearn in chosen weights, all weights, or a LoRA: efficacy and utility as in WAGLE's tables.

    The default is a small part of them; methods=grad_diff,npo,idk ratios=0.05,0.4,0.8,0.95 seeds=3 is more.
    """
    config = call.config
    from expunge.experiments.wagle import COLUMNS
    from expunge.experiments.wagle import wagle as recipe

    with shown() as report:
        made = recipe(
            config.output,
            corpus=None if config.model is None else corpus_of(config, call.resolved.more),
            start=config.model,
            methods=config.methods,
            arms=config.arms,
            ratios=config.ratios,
            seeds=config.seeds,
            grid=config.grid,
            settings=config.settings,
            authors=config.authors,
            overwrite=call.overwrite,
            progress=report,
        )
    lines = []
    for line in made.lines:
        cell, values = line.cell, [_shown(line.means[name], line.deviations[name]) for name in COLUMNS]
        method, arm = ("start model", "") if cell is None else (cell.method, cell.arm)
        ratio = "" if cell is None or cell.ratio is None else f"{cell.ratio:g}"
        lines.append((method, arm, ratio, "" if line.rate is None else f"{line.rate:g}", *values))
    table(("method", "weights", "ratio", "rate", *COLUMNS), lines, numeric=tuple(range(2, len(COLUMNS) + 4)))
    say("\nall between 0 and 1, higher is better; UE and UT are the means of the columns before them")
    if config.seeds > 1:
        say(f"mean ± standard deviation over {config.seeds} seeds")
    for why in dict.fromkeys(made.missing.values()):
        without = ", ".join(name for name, note in made.missing.items() if note == why)
        say(f"no {without}: {why.removeprefix('Missing: ')}")
    say(f"\ntable: {made.folder / 'wagle.json'}")
    return 0


def _shown(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"


VERB = Verb(
    name="experiment wagle",
    config=WagleConfig,
    run=wagle,
    more=source_settings,
    flags=("overwrite",),
    note="Example: expunge experiment wagle methods=npo,idk arms=dense,random,wagle ratios=0.4,0.8",
)
