"""`expunge demo`."""

from dataclasses import dataclass

from expunge.cli.console import draw_split, say
from expunge.cli.verb import Call, Verb
from expunge.core.checks import require_at_least
from expunge.core.output import check_output
from expunge.core.progress import shown


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demonstration covers, and where it goes."""

    output: str = "expunge-demo"
    """Folder for models, evaluations and the report."""
    methods: tuple[str, ...] = ("grad_ascent", "grad_diff", "npo", "simnpo")
    """Unlearning methods to compare."""
    authors: int = 60
    """Invented authors in the corpus."""
    seed: int = 0
    """Of corpus, models and training."""
    fresh: bool = False
    """Train target and retain model anew instead of taking them from the cache."""

    def __post_init__(self) -> None:
        require_at_least("authors", self.authors, 2)


def demo(call: Call[DemoConfig]) -> int:
    """Show everything on invented authors and a tiny model, in minutes on two CPU cores.

    Train a target and a retain model, unlearn with several methods, evaluate all of them, and write a report.
    """
    config = call.config
    check_output(config.output, overwrite=call.overwrite, names=["*"])  # the stage looks at what is in it
    from expunge.experiments._demo import SHOWN
    from expunge.experiments._demo import demo as demonstrate
    from expunge.report.tables import comparison, terminal

    with shown() as report:
        made = demonstrate(
            config.output,
            methods=config.methods,
            authors=config.authors,
            seed=config.seed,
            fresh=config.fresh,
            overwrite=call.overwrite,
            progress=report,
        )
    draw_split(terminal(comparison(made.evaluations, measures=SHOWN, start="start model", retain="retain model")))
    say(f"\nreport: {made.report}")
    return 0


VERB = Verb(name="demo", config=DemoConfig, run=demo, flags=("overwrite",))
