"""`expunge experiment sustainability` and `expunge experiment scalability`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from expunge.cli.console import say, table
from expunge.cli.verb import Call, Verb
from expunge.core.checks import require_at_least
from expunge.core.progress import shown

if TYPE_CHECKING:
    from expunge.experiments._requests import Requests


@dataclass(frozen=True, kw_only=True)
class RequestsConfig:
    """What the experiment covers, and where it goes."""

    output: str = "expunge-requests"
    """Folder for numbers and drawing; a run with the same settings that was stopped there goes on."""
    methods: tuple[str, ...] = ("grad_ascent", "grad_diff", "npo")
    """Unlearning methods."""
    requests: int = 3
    """Parts of the forget set: requests one after the other, or sizes."""
    authors: int = 60
    """Invented authors in the corpus, a tenth of whom are to be forgotten."""
    seed: int = 0
    """Of corpus, models and training."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Training settings over those of the demonstration: `settings.epochs=5`."""

    def __post_init__(self) -> None:
        require_at_least("authors", self.authors, 2)
        require_at_least("requests", self.requests, 2)


def sustainability(call: Call[RequestsConfig]) -> int:
    """Forget in several requests, one after the other: what is left of the model, and does knowledge come back?"""
    from expunge.experiments.sustainability import sustainability as recipe

    return _run(call, recipe, "requests")


def scalability(call: Call[RequestsConfig]) -> int:
    """Forget more and more at once: what does a larger forget set cost?"""
    from expunge.experiments.scalability import scalability as recipe

    return _run(call, recipe, "forget examples")


def _run(call: Call[RequestsConfig], recipe: Any, axis: str) -> int:
    config = call.config
    from expunge.report.text import number, words

    with shown() as report:
        made: Requests = recipe(
            config.output,
            methods=config.methods,
            requests=config.requests,
            authors=config.authors,
            seed=config.seed,
            settings=config.settings,
            overwrite=call.overwrite,
            progress=report,
        )

    def told(values: Any) -> list[str]:
        return ["-" if value is None else number(value) for value in values.values()]

    lines = [("start model", "", *told(made.start))]
    lines += [(method, str(x), *told(values)) for method, of in made.found.items() for x, values in of.items()]
    table(("model", axis, *map(words, made.start)), lines, numeric=tuple(range(1, 2 + len(made.start))))
    say(f"\nnumbers and drawing: {made.folder}")
    return 0


SUSTAINABILITY = Verb(name="experiment sustainability", config=RequestsConfig, run=sustainability, flags=("overwrite",))
SCALABILITY = Verb(name="experiment scalability", config=RequestsConfig, run=scalability, flags=("overwrite",))
