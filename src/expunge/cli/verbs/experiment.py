"""`expunge experiment`."""

from dataclasses import dataclass, field
from typing import Any

from expunge.cli.console import say, table
from expunge.cli.verb import Call, Verb
from expunge.core.checks import require_at_least
from expunge.core.progress import shown


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """What is judged on which models, and where the result goes."""

    output: str = "expunge-metrics"
    """Folder for numbers and drawing; a run with the same settings that was stopped there goes on."""
    methods: tuple[str, ...] = ("grad_diff", "npo", "simnpo")
    """Methods that models are unlearned with before they are attacked."""
    rates: tuple[float, ...] = (3e-4, 5e-4, 1e-3)
    """Learning rates of the pool."""
    strengths: tuple[float, ...] = (0.5, 1.0)
    """Factors of each method's learning rate: an unlearned model each."""
    seeds: int = 1
    """Models of each kind: data variant and rate."""
    authors: int = 60
    """Invented authors in the corpus."""
    seed: int = 0
    """Of corpus, models and training."""
    relearning: dict[str, Any] = field(default_factory=dict)
    """Settings of the relearning attack: `relearning.learning_rate=1e-4 relearning.epochs=2`."""

    def __post_init__(self) -> None:
        require_at_least("seeds", self.seeds, 1)
        require_at_least("authors", self.authors, 2)


def metrics(call: Call[MetricsConfig]) -> int:
    """Which metrics tell models that know from models that do not, and which can be fooled?"""
    config = call.config
    from expunge.experiments.metrics import metrics as recipe
    from expunge.report.text import interval_text, number, words

    with shown() as report:
        made = recipe(
            config.output,
            methods=config.methods,
            rates=config.rates,
            strengths=config.strengths,
            seeds=config.seeds,
            authors=config.authors,
            seed=config.seed,
            relearning=config.relearning,
            overwrite=call.overwrite,
            progress=report,
        )

    def told(value: float | None) -> str:
        return "-" if value is None else number(value)

    header = ("metric", "faithfulness", "95 %", "R", "Q 4 bits", "Q 8 bits", "robustness", "overall", "models")
    lines = [
        (
            words(judgment.metric),
            number(judgment.faithfulness),
            interval_text(judgment.interval),
            told(judgment.resistance),
            told(judgment.stability(4)),
            told(judgment.stability(8)),
            told(judgment.robustness),
            told(judgment.overall),
            str(len(judgment.counted)),
        )
        for judgment in sorted(made.judgments, key=lambda judgment: -judgment.faithfulness)
    ]
    table(header, lines, numeric=(1, 3, 4, 5, 6, 7, 8))
    for note in made.notes:
        say(note)
    say(f"\nnumbers: {made.folder / 'metrics.json'}\ndrawing: {made.folder / 'metrics.png'}")
    return 0


METRICS = Verb(name="experiment metrics", config=MetricsConfig, run=metrics, flags=("overwrite",))
