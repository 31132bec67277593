"""`expunge attack`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.cli.console import heading, say, table
from expunge.cli.inputs import LoadingConfig, corpus_of, load, source_settings, template_of
from expunge.cli.verb import Call, Verb
from expunge.core.checks import require_between
from expunge.core.format import counted
from expunge.core.output import check_output_file
from expunge.core.progress import shown
from expunge.data.data_config import DataConfig
from expunge.results.attacked import FILE, leak_map, load_attacked
from expunge.results.places import check_measured

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.results.attacked import Attacked

MOST_FACTS = 20
"""Facts that the leak map shows on a terminal, those that leak most."""


@dataclass(frozen=True, kw_only=True)
class AttackConfig(LoadingConfig, DataConfig):
    """What is attacked, how, and what it is compared with."""

    model: str
    """Finished model: a folder or a hub id."""
    output: str
    """Folder for `attacked.json`."""
    attacks: tuple[str, ...] = ("quantize", "relearn", "prompts", "sampling")
    """Attacks, such as `quantize,prompts`; `expunge list attacks` names them."""
    control: str | None = None
    """Model that never saw the forget set, such as the retain model, or the folder of an earlier attack on it; null:
    untaught facts of the same form."""
    threshold: float = 0.2
    """Recovery above the control from which on a fact counts as leaking."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of single attacks: `settings.relearn.steps=20`."""
    label: str | None = None
    """What to call the model; null: the name of its folder."""
    seed: int = 0
    """Random seed of everything that is drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between("threshold", self.threshold, 0, 1)


def attack(call: Call[AttackConfig]) -> int:
    """Try to draw the forget set out of a finished model, and compare with one that never knew it."""
    config = call.config
    check_measured(config.output)
    check_output_file(Path(config.output) / FILE, overwrite=call.overwrite)
    from expunge.attack.attack import attack as stage

    corpus = corpus_of(config, call.resolved.extra)
    control = _control(config)
    model, tokenizer = load(config.model, config)
    with shown() as report:
        found = stage(
            model,
            tokenizer,
            corpus,
            attacks=config.attacks,
            control=control,
            threshold=config.threshold,
            settings=config.settings,
            template=template_of(config),
            max_length=config.max_length,
            seed=config.seed,
            label=config.label or Path(config.model).name,
            output_dir=config.output,
            overwrite=call.overwrite,
            progress=report,
        )
    header, rows, numeric = found.table()
    heading(f"{found.label}: {', '.join(config.attacks)}")
    table(header, rows, numeric=numeric)
    _show_map(found)
    say()
    say(found.text())
    say(f"result: {Path(config.output) / FILE}")
    return 0


def _control(config: AttackConfig) -> "PreTrainedModel | Attacked | None":
    if config.control is None:
        return None
    if (Path(config.control) / FILE).is_file() or config.control.endswith(FILE):
        return load_attacked(config.control)
    return load(config.control, config)[0]  # type: ignore[return-value]


def _show_map(found: "Attacked") -> None:
    """The facts that leak, those that leak most first."""
    if not found.leaking:
        return
    header, rows = leak_map(found)
    worst = sorted(found.leaking, key=lambda fact: -found.worst[fact][1])[:MOST_FACTS]
    heading(f"{counted(len(found.leaking), 'fact')} leaking; * marks where")
    table(header, [rows[fact] for fact in worst], numeric=range(2, len(header)))
    if len(found.leaking) > len(worst):
        say(f"{len(found.leaking) - len(worst)} more are in the result.")


VERB = Verb(
    name="attack",
    config=AttackConfig,
    run=attack,
    extra_settings=source_settings,
    flags=("overwrite",),
    note="Example: expunge attack model=runs/npo control=runs/retain forget=forget.jsonl retain=retain.jsonl "
    "output=runs/npo-attacked",
)
