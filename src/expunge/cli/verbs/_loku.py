"""`expunge experiment loku`."""

from dataclasses import dataclass, field
from typing import Any

from expunge.cli.console import say, table
from expunge.cli.inputs import corpus_of
from expunge.cli.verb import Call, Verb
from expunge.core.checks import require_at_least
from expunge.core.progress import shown
from expunge.data.config import DataConfig


@dataclass(frozen=True, kw_only=True)
class LokuConfig(DataConfig):
    """What the experiment covers, and where it goes."""

    output: str = "expunge-loku"
    """Folder for table, drawing and records; what is finished there is not run again."""
    model: str | None = None
    """Folder of the start model, with a forget and a retain set; null: the embedded default, data and all."""
    retain_model: str | None = None
    """Folder of the model that never saw the forget set, for forget quality."""
    ranks: tuple[int, ...] = (4, 8, 16, 32)
    """Ranks of the adapters."""
    arms: tuple[str, ...] = ("grad_diff", "npo", "ihl", "ihl_fila", "grad_diff_full", "npo_full", "ihl_full")
    """What is compared; those that end in `_full` train all weights."""
    epsilon: float | str = "auto"
    """Of FILA: a number, or `auto`."""
    measures: tuple[str, ...] = ()
    """Measures to compare; none: extraction strength, probability, forget quality and utility where available."""
    rates: dict[str, float] = field(default_factory=dict)
    """Learning rates by arm over those of the recipe: `rates.ihl_fila=3e-4`."""
    grid: tuple[float, ...] = ()
    """Learning rates to choose each arm's from, on a seed of its own, such as `1e-4,3e-4,1e-3,3e-3`."""
    tuning_rank: int = 8
    """Rank of adapters while a learning rate is chosen."""
    seeds: int = 1
    """How often each run is repeated."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further training settings over those of the recipe, for all arms: `settings.epochs=10 settings.batch_size=8`."""
    authors: int = 60
    """Invented authors of the embedded default."""
    seed: int = 0
    """Of data and models, and the first one of training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("seeds", self.seeds, 1)
        require_at_least("authors", self.authors, 2)


def loku(call: Call[LokuConfig]) -> int:
    """Compare IHL with FILA, IHL, NPO and GradDiff over adapter ranks, and full-parameter training.

    Without a model it runs on the embedded default; with one, it needs forget= and retain=. What is finished in the
    output folder is not run again.
    """
    config = call.config
    from expunge.experiments.loku import QUALITY
    from expunge.experiments.loku import loku as recipe
    from expunge.report.text import words

    with shown() as report:
        made = recipe(
            config.output,
            corpus=None if config.model is None else corpus_of(config, call.resolved.more),
            start=config.model,
            retain_model=config.retain_model,
            ranks=config.ranks,
            arms=config.arms,
            epsilon=config.epsilon,
            rates=config.rates,
            grid=config.grid,
            tuning_rank=config.tuning_rank,
            seeds=config.seeds,
            settings=config.settings,
            measures=config.measures or None,
            authors=config.authors,
            seed=config.seed,
            overwrite=call.overwrite,
            progress=report,
        )
    lines = [(what, "", *(_shown(of.get(name)) for name in made.measures)) for what, of in made.levels.items()]
    lines += [
        (
            str(line),
            f"{line.rate:g}",
            *(_shown(line.means.get(name), line.deviations.get(name)) for name in made.measures),
        )
        for line in made.lines
    ]
    header = ("model", "rate", *(words(name) for name in made.measures))
    table(header, lines, numeric=tuple(range(1, len(header))))
    if config.seeds > 1:
        say(f"\nmean ± standard deviation over {config.seeds} seeds")
    if QUALITY in made.measures:
        say(f"\n{words(QUALITY)} compares with the retain model, which therefore has none of its own")
    for why in dict.fromkeys(made.missing.values()):
        without = ", ".join(words(name) for name, reason in made.missing.items() if reason == why)
        say(f"no {without}: {why.removeprefix('Missing: ')}")
    say(f"\ntable: {made.folder / 'loku.json'}\ndrawing: {made.folder / 'loku.png'}")
    return 0


def _shown(value: float | None, deviation: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if deviation is None else f"{value:.3g} ± {deviation:.2g}"


VERB = Verb(name="experiment loku", config=LokuConfig, run=loku, flags=("overwrite",))
