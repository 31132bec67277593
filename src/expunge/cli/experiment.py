"""`expunge experiment`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from expunge.cli.console import draw, heading, say, table
from expunge.cli.verb import Call, Verb
from expunge.core.checks import ExpungeError, require_at_least, require_between
from expunge.core.places import Recovery
from expunge.core.progress import shown


@dataclass(frozen=True, kw_only=True)
class LocalityConfig:
    """What the experiment covers, and where it goes."""

    output: str = "locality"
    """Folder for curves and results; what is finished there is not run again."""
    methods: tuple[str, ...] = ("wga", "npo", "dpo", "rmu")
    """Unlearning methods."""
    seeds: int = 5
    """How often all is repeated: regions, data order, pairing."""
    ratio: float = 0.1
    """Share of the MLP's value vectors in a region."""
    quality: bool = False
    """Measure forget quality and model utility too, for MU95; takes several times as long."""
    attributions: tuple[str, ...] = ("wagle", "memflex", "activation", "gradient", "magnitude", "random")
    """Localizations of the start model that are held against the region."""
    learn_regularizer: float = 1.0
    """Weight of the retain set's loss while the forget set is taught; 0 for none."""
    retain: str | None = None
    """Folder of a model trained on the retain set only; null: a small one is trained on invented authors."""
    data: dict[str, Any] = field(default_factory=dict)
    """Data that go with it: `data.forget=f.jsonl data.retain=r.jsonl`, or `data.source=tofu data.path=...`."""
    teaching: dict[str, Any] = field(default_factory=dict)
    """Training settings of teaching: `teaching.learning_rate=1e-4`."""
    unlearning: dict[str, Any] = field(default_factory=dict)
    """Settings of unlearning: `unlearning.learning_rate=1e-5 unlearning.batch_size=32`."""

    def __post_init__(self) -> None:
        require_at_least("seeds", self.seeds, 1)
        require_between("ratio", self.ratio, 0, 0.5)
        if (self.retain is None) != (not self.data):
            raise ExpungeError("retain and data go together: a retain model with the data that it goes with.")


def locality(call: Call[LocalityConfig]) -> int:
    """Unlearn in the region that holds the knowledge and in a random one of its size: does the place matter?"""
    config = call.config
    from expunge.data.corpus import load_corpus
    from expunge.recipes.locality import locality as recipe
    from expunge.report.curves import table as summary
    from expunge.report.curves import write
    from expunge.report.tables import terminal
    from expunge.report.wording import number, words

    with shown() as report:
        made = recipe(
            config.output,
            retain_model=config.retain,
            corpus=load_corpus(**config.data) if config.data else None,
            methods=config.methods,
            seeds=config.seeds,
            ratio=config.ratio,
            attributions=config.attributions,
            learn_regularizer=config.learn_regularizer,
            quality=config.quality,
            teaching=config.teaching,
            unlearning=config.unlearning,
            overwrite=call.overwrite,
            progress=report,
        )
    draw(terminal(summary(made.comparison)))
    heading("Oracle against random, paired by seed")
    lines = [
        (
            method,
            words(name),
            *(f"{number(mean)} ± {number(std)}" for mean, std in zip(found.means, found.stds, strict=True)),
            number(found.difference),
            number(found.absolute),
            number(found.t_p),
            number(found.flip_p),
        )
        for method, of in made.found.items()
        for name, found in of.items()
    ]
    header = ("method", "measure", "oracle", "random", "difference", "mean |difference|", "t-test p", "sign-flip p")
    table(header, lines, numeric=(2, 3, 4, 5, 6, 7))
    if made.recovered:
        heading("Does an attribution find the region?")
        table(("attribution", "precision", "recall", "by chance"), list(_recovered(made.recovered)), numeric=(1, 2, 3))
    say()
    for note in made.notes:
        say(note)
    page, *_ = write(made.comparison, made.folder, title="Does the place matter? Oracle against random regions")
    say(f"\npage: {page}; drawing and numbers beside it")
    return 0


def _recovered(recovered: Mapping[str, Sequence[Recovery]]) -> Iterator[tuple[str, ...]]:
    from expunge.report.wording import number

    for name, of in recovered.items():
        precisions = [one.precision for one in of]
        spread = f" ± {number(stdev(precisions))}" if len(of) > 1 else ""
        recall, chance = mean(one.recall for one in of), mean(one.expected_precision for one in of)
        yield name, f"{number(mean(precisions))}{spread}", number(recall), number(chance)


LOCALITY = Verb(
    name="experiment locality",
    config=LocalityConfig,
    run=locality,
    flags=("overwrite",),
    note="Example: expunge experiment locality methods=npo seeds=3",
)


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
    from expunge.recipes.meta_evaluation import meta_evaluation as recipe
    from expunge.report.wording import interval_text, number, words

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
