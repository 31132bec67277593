"""`expunge experiment loku`."""

from dataclasses import dataclass, field

from expunge.cli.console import say, table
from expunge.cli.inputs import check_output, corpus_of
from expunge.cli.verb import Call, Verb
from expunge.core.checks import require_at_least
from expunge.core.progress import shown
from expunge.data.config import DataConfig


@dataclass(frozen=True, kw_only=True)
class LokuConfig(DataConfig):
    """What the experiment covers, and where it goes."""

    output: str = "expunge-loku"
    """Folder for runs, table and drawing."""
    model: str | None = None
    """Folder of the start model, with a forget and a retain set; null: the embedded default, data and all."""
    retain_model: str | None = None
    """Folder of the model that never saw the forget set, for forget quality."""
    ranks: tuple[int, ...] = (4, 8, 16, 32)
    """Ranks of the adapters."""
    arms: tuple[str, ...] = ("grad_diff", "npo", "ihl", "ihl_fila", "ihl_full")
    """What is compared; `ihl_full` trains all weights."""
    epsilon: float | str = "auto"
    """Of FILA: a number, or `auto`."""
    measures: tuple[str, ...] = ()
    """Measures to compare; none: extraction strength, probability, forget quality and utility where they can be had."""
    settings: dict[str, float] = field(default_factory=dict)
    """Training settings over those of the recipe: `settings.learning_rate=1e-3 settings.full_learning_rate=1e-4`."""
    authors: int = 60
    """Invented authors of the embedded default."""
    seed: int = 0
    """Of data, models and training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("authors", self.authors, 2)


def loku(call: Call[LokuConfig]) -> int:
    """Compare IHL with FILA, IHL, NPO and GradDiff over adapter ranks, and full-parameter training.

    Without a model it runs on the embedded default; with one, it needs forget= and retain=.
    """
    config = call.config
    check_output(config.output, overwrite=call.overwrite)
    from expunge.recipes.loku import loku as recipe

    with shown() as report:
        made = recipe(
            config.output,
            corpus=None if config.model is None else corpus_of(config, call.resolved.more),
            start=config.model,
            retain_model=config.retain_model,
            ranks=config.ranks,
            arms=config.arms,
            epsilon=config.epsilon,
            settings={k: int(v) if k == "batch_size" else v for k, v in config.settings.items()},
            measures=config.measures or None,
            authors=config.authors,
            seed=config.seed,
            overwrite=call.overwrite,
            progress=report,
        )
    names = [name for name in made.rows[0] if name in made.evaluations["start model"].measures]
    lines = [
        (
            what,
            *(
                f"{float(made.evaluations[what][name]):.4g}" if name in made.evaluations[what].measures else "-"
                for name in names
            ),
        )
        for what in made.evaluations
    ]
    table(("model", *names), lines, numeric=tuple(range(1, len(names) + 1)))
    say(f"\ntable: {made.folder / 'loku.json'}\ndrawing: {made.folder / 'loku.png'}")
    return 0


VERB = Verb(name="experiment loku", config=LokuConfig, run=loku, flags=("overwrite",))
