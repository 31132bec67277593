"""`expunge experiment locality` and `expunge experiment attributions`: one experiment with two sets of places."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from expunge.cli.console import draw, heading, say, table
from expunge.cli.verb import Call, Verb
from expunge.core.checks import ExpungeError, require_at_least, require_between
from expunge.core.progress import shown
from expunge.masks.fingerprint import Recovery

if TYPE_CHECKING:
    from expunge.experiments._locality.findings import Found
    from expunge.experiments._locality.matching import Matched

ATTRIBUTED = ("wagle", "memflex", "activation", "gradient", "magnitude")


@dataclass(frozen=True, kw_only=True)
class LocalityConfig:
    """What the experiment covers, and where it goes."""

    output: str = "locality"
    """Folder for curves and results; what is finished there is not run again."""
    methods: tuple[str, ...] = ("wga", "npo", "dpo", "rmu")
    """Unlearning methods."""
    places: tuple[str, ...] = ("oracle", "random")
    """Where each unlearns: `oracle` (the region that holds the knowledge), `random` (one outside it, which the others
    are compared with), or an attribution, for what it selects."""
    seeds: int = 5
    """How often all is repeated: regions, data order, pairing."""
    first_seed: int = 0
    """The first of the seeds; the settings here were tuned on 100 and 101."""
    ratio: float = 0.1
    """Share of the MLP's value vectors in a region."""
    quality: bool = True
    """Measure forget quality and model utility too, for MU95; takes about three times as long."""
    attributions: tuple[str, ...] = (*ATTRIBUTED, "random")
    """Localizations of the start model that are held against the region."""
    match_retain: bool = True
    """Also move the region, and three random ones, toward what the retain model does."""
    margins: dict[str, float] = field(default_factory=dict)
    """Mean differences that count as none, above 0: `margins.aues=0.05 margins.mu95=1 margins.resistance=0.1`."""
    learn_regularizer: float = 1.0
    """Weight of the retain set's loss while the forget set is taught; 0 for none."""
    retain: str | None = None
    """Folder of a model trained on the retain set only; null: a small one is trained on invented authors."""
    data: dict[str, Any] = field(default_factory=dict)
    """Data that go with it: `data.forget=f.jsonl data.retain=r.jsonl`, or `data.source=tofu data.path=...`."""
    teaching: dict[str, Any] = field(default_factory=dict)
    """Training settings of teaching: `teaching.learning_rate=1e-4`."""
    unlearning: dict[str, Any] = field(default_factory=dict)
    """Settings of unlearning, for all methods or one: `unlearning.batch_size=32 unlearning.rmu.alpha=10`."""
    relearning: dict[str, Any] = field(default_factory=dict)
    """Settings of the relearning attack: `relearning.learning_rate=2e-5 relearning.epochs=1`."""
    matching: dict[str, Any] = field(default_factory=dict)
    """Settings of match_retain: `matching.learning_rate=1e-4`."""
    workers: int | None = None
    """Seeds that run at once; null: as many as there are processors, one on a GPU."""

    def __post_init__(self) -> None:
        require_at_least("seeds", self.seeds, 1)
        require_between("ratio", self.ratio, 0, 0.5)
        if self.workers is not None:
            require_at_least("workers", self.workers, 1)
        if (self.retain is None) != (not self.data):
            raise ExpungeError("retain and data go together: a retain model with the data that it goes with.")


@dataclass(frozen=True, kw_only=True)
class AttributionsConfig(LocalityConfig):
    """What the comparison of attributions covers, and where it goes."""

    output: str = "attributions"
    """Folder for curves and results; what is finished there is not run again."""
    methods: tuple[str, ...] = ("wga",)
    """Unlearning methods."""
    places: tuple[str, ...] = ("oracle", "random", *ATTRIBUTED)
    """Where each unlearns, as in `experiment locality`."""
    quality: bool = False
    """Measure forget quality and model utility too, for MU95; takes about three times as long."""
    match_retain: bool = False
    """Also move the region, and three random ones, toward what the retain model does."""


def locality(call: Call[LocalityConfig]) -> int:
    """Unlearn in the region that holds the knowledge and in a random one of its size: does the place matter?"""
    return _run(call, "Does the place matter? Oracle against random regions")


def attributions(call: Call[AttributionsConfig]) -> int:
    """Unlearn where attributions point, in the right place and in a random one: does localization pay?"""
    return _run(call, "Does localization pay? Attributions against random regions")


def _run(call: Call[Any], title: str) -> int:
    config: LocalityConfig = call.config
    from expunge.data.corpus import load_corpus
    from expunge.experiments._locality.figure import write as draw_cells
    from expunge.experiments.locality import locality as recipe
    from expunge.report.curve_page import table as summary
    from expunge.report.curve_page import write
    from expunge.report.tables import terminal

    with shown() as report:
        made = recipe(
            config.output,
            retain_model=config.retain,
            corpus=load_corpus(**config.data) if config.data else None,
            methods=config.methods,
            places=config.places,
            seeds=config.seeds,
            first_seed=config.first_seed,
            ratio=config.ratio,
            attributions=config.attributions,
            match_retain=config.match_retain,
            margins=config.margins,
            learn_regularizer=config.learn_regularizer,
            quality=config.quality,
            teaching=config.teaching,
            unlearning=config.unlearning,
            relearning=config.relearning,
            matching=config.matching,
            workers=config.workers,
            overwrite=call.overwrite,
            progress=report,
        )
    draw(terminal(summary(made.comparison)))
    heading("Against random regions, paired by seed")
    table(COLUMNS, list(_compared(made.found)), numeric=range(3, len(COLUMNS)))
    if made.recovered:
        heading("Does an attribution find the region?")
        table(("attribution", "precision", "recall", "by chance"), list(_recovered(made.recovered)), numeric=(1, 2, 3))
    if made.matched:
        heading("Moved toward the retain model (match_retain)")
        header = ("place", "forgetting", "retention", "log10 forget quality", "utility", "distance left")
        table(header, list(_matched(made.matched)), numeric=range(1, len(header)))
    say()
    for note in made.notes:
        say(note)
    page, *_ = write(made.comparison, made.folder, title=title)
    drawing, *_ = draw_cells(made.values, made.folder, margins=made.margins)
    say(f"\npage: {page}; figure and numbers next to it\ncells: {drawing}")
    return 0


COLUMNS = (
    "method",
    "measure",
    "place",
    "there",
    "random",
    "difference",
    "90 %",
    "mean |difference|",
    "t-test p",
    "sign-flip p",
    "equivalence p",
)


def _compared(found: "Found") -> Iterator[tuple[str, ...]]:
    from expunge.report.text import number, words

    for method, measures in found.items():
        for name, places in measures.items():
            for place, one in places.items():
                sides = (f"{number(mean)} ± {number(std)}" for mean, std in zip(one.means, one.stds, strict=True))
                low, high = one.interval
                yield (
                    method,
                    words(name),
                    place,
                    *sides,
                    number(one.difference),
                    f"{number(low)} to {number(high)}",
                    number(one.absolute),
                    number(one.t_p),
                    number(one.flip_p),
                    f"{number(one.equivalence_p)} (within {one.margin:g})",
                )


def _recovered(recovered: Mapping[str, Sequence[Recovery]]) -> Iterator[tuple[str, ...]]:
    from expunge.report.text import number

    for name, of in recovered.items():
        recall, chance = mean(one.recall for one in of), mean(one.expected_precision for one in of)
        yield name, _spread([one.precision for one in of]), number(recall), number(chance)


def _matched(matched: "Sequence[Matched]") -> Iterator[tuple[str, ...]]:
    for place in dict.fromkeys(one.place for one in matched):
        of = [one for one in matched if one.place == place]
        numbers: tuple[list[float | None], ...] = (
            [one.forget_strength for one in of],
            [one.retain_strength for one in of],
            [one.log10_quality for one in of],
            [one.utility for one in of],
            [one.distance / one.distance_before for one in of],
        )
        yield place, *map(_spread, numbers)


def _spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation over seeds."""
    from expunge.report.text import number

    there = [value for value in values if value is not None]
    if len(there) < len(values):
        return "-"
    return f"{number(mean(there))} ± {number(stdev(there))}" if len(there) > 1 else number(there[0])


LOCALITY = Verb(
    name="experiment locality",
    config=LocalityConfig,
    run=locality,
    flags=("overwrite",),
    note="Example: expunge experiment locality methods=npo seeds=3",
)
ATTRIBUTIONS = Verb(
    name="experiment attributions",
    config=AttributionsConfig,
    run=attributions,
    flags=("overwrite",),
    note="Example: expunge experiment attributions methods=npo seeds=3",
)
