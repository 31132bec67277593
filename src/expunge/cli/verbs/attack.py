"""`expunge attack`."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expunge.cli import preview
from expunge.cli.console import draw_split, heading, say, table
from expunge.cli.inputs import LoadingConfig, corpus_of, load, source_settings, template_of, tokenizer_of
from expunge.cli.verb import Call, Verb
from expunge.cli.verbs.evaluate import made_here
from expunge.config.convert import convert
from expunge.config.settings import parameters
from expunge.core import catalogue
from expunge.core.checks import ExpungeError, require_between
from expunge.core.format import counted
from expunge.core.lock import check_free, locked
from expunge.core.output import check_output_file
from expunge.core.progress import shown
from expunge.data.data_config import DataConfig
from expunge.results.attacked import FILE, NOTHING, load_attacked
from expunge.results.places import attacked_folder, check_measured

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.attack.budget import Budget
    from expunge.data.corpus import Corpus
    from expunge.results.attacked import Attacked

MOST_FACTS = 20
"""Facts that the leak map shows on a terminal, those that leak most."""


@dataclass(frozen=True, kw_only=True)
class AttackConfig(LoadingConfig, DataConfig):
    """What is attacked, how, and what it is compared with."""

    model: str
    """Finished model: a folder or a hub id."""
    output: str | None = None
    """Folder for `attacked.json`; null: next to the folder of the run that is attacked, `<run>-attacked`, where
    `report`, `record` and `export` look for it."""
    attacks: tuple[str, ...] | None = None
    """Attacks, such as `quantize,prompts`; `expunge list attacks` names them. null: `quantize` where `forms` is given,
    else the default ones, which `--dry-run` shows."""
    forms: tuple[str, ...] | None = None
    """Forms in which the model may be deployed, such as `int8,q4_0`, or `all`: short for `settings.quantize.forms`."""
    control: str | None = None
    """Model that never saw the forget set, such as the retain model, or the folder of an earlier attack on it; null:
    untaught facts of the same form; `nothing`: no control, at half the cost, for a result that is to be the control."""
    control_is: Literal["retain model", "model that never saw the rows"] = "retain model"
    """What the control is, for readers and for an erasure record: retrained without the forget set, or another model,
    such as a base model."""
    threshold: float = 0.2
    """Recovery above the control from which on a fact counts as leaking."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of single attacks: `settings.relearn.steps=20`."""
    texts: Literal["keep", "hash", "drop"] = "keep"
    """What the output holds of questions, answers, prompts and what the model said: the texts, their SHA-256, or the
    SHA-256 of the questions alone."""
    label: str | None = None
    """What to call the model; null: the name of its folder."""
    seed: int = 0
    """Random seed of everything that is drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between("threshold", self.threshold, 0, 1)
        if self.control in (None, NOTHING) and self.control_is != "retain model":
            raise ExpungeError(
                f"control_is says what control= names, and no control is named; got {self.control_is!r}."
            )

    @property
    def chosen(self) -> tuple[str, ...]:
        """The attacks that were named, else the default ones."""
        from expunge.attack.attack import DEFAULT

        if self.attacks is not None:
            return self.attacks
        return DEFAULT if self.forms is None else ("quantize",)

    @property
    def own_settings(self) -> dict[str, dict[str, Any]]:
        """By attack, its settings, as its signature types them."""
        given = {name: dict(own) for name, own in self.settings.items()}
        if self.forms is not None:
            given.setdefault("quantize", {})["forms"] = self.forms
        return {name: _typed(name, own) for name, own in given.items()}


def _typed(attack: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an attack read by their declared types: `int8` is a list of one where a list is due."""
    known = {setting.name: setting.type for setting in parameters(catalogue.resolve("attacks", attack), owner=attack)}
    return {
        name: convert(str(value), known[name], ("settings", attack, name), {})
        if name in known and isinstance(value, str | int | float)
        else value
        for name, value in own.items()
    }


def attack(call: Call[AttackConfig]) -> int:
    """Try to draw the forget set out of a finished model, and compare with one that never knew it."""
    config = call.config
    if call.dry_run:
        return _dry_run(call)
    output = _output(config)
    with locked(output):
        return _attack(call, output)


def _output(config: AttackConfig) -> Path:
    """The folder that was named, else the one next to the run."""
    if config.output is not None:
        return Path(config.output)
    if made_here(config.model):
        return attacked_folder(config.model)
    from expunge.models.load import check_model_folder

    check_model_folder(config.model)
    raise ExpungeError(
        f"output is missing: there is no run of expunge at '{config.model}', so say where the result goes, such as "
        "output=runs/attacked"
    )


def _attack(call: Call[AttackConfig], output: Path) -> int:
    config = call.config
    check_measured(output)
    check_output_file(output / FILE, overwrite=call.overwrite)
    from expunge.attack.attack import attack as stage
    from expunge.attack.attack import budgets, check_forget, chosen

    corpus = corpus_of(config, call.resolved.extra)
    settings = config.own_settings
    ways = chosen(config.chosen, settings)
    check_forget(corpus)
    model, tokenizer = load(config.model, config)
    control = _control(config, tokenizer)
    say(_in_all(budgets(ways, corpus, seed=config.seed, adapters=_has_adapters(config.model)), config))
    with shown() as report:
        found = stage(
            model,
            tokenizer,
            corpus,
            attacks=config.chosen,
            control=control,
            control_is=config.control_is,
            threshold=config.threshold,
            settings=settings,
            template=template_of(config),
            max_length=config.max_length,
            seed=config.seed,
            texts=config.texts,
            label=config.label or Path(config.model).name,
            output_dir=output,
            overwrite=call.overwrite,
            progress=report,
        )
    header, rows, numeric = found.table()
    heading(f"{found.label}: {', '.join(config.chosen)}")
    table(header, rows, numeric=numeric)
    _show_map(found)
    say()
    say(found.text())
    say(f"result: {output / FILE}; its map is drawn next to it")
    return 0


def _control(
    config: AttackConfig, tokenizer: "PreTrainedTokenizerBase"
) -> "PreTrainedModel | PeftModel | Attacked | Literal['nothing'] | None":
    """An earlier result, or a model, which is asked with the tokenizer of the one that is attacked."""
    if config.control is None:
        return None
    if config.control == NOTHING:
        return NOTHING
    if _is_result(config.control):
        return load_attacked(config.control)
    from expunge.models.load import check_loading, check_tokenizer_fits, load_model

    check_loading(config.control, device=config.device, bits=config.bits)
    how = {"dtype": config.dtype, "device": config.device, "bits": config.bits}
    model = load_model(config.control, trust_remote_code=config.trust_remote_code, **how)  # type: ignore[arg-type]
    check_tokenizer_fits(model, tokenizer)
    return model


def _is_result(control: str) -> bool:
    return (Path(control) / FILE).is_file() or control.endswith(FILE)


def _has_adapters(source: str) -> bool:
    from expunge.models.load import holds_adapter_alone

    return holds_adapter_alone(source)


def _show_map(found: "Attacked") -> None:
    """The facts that leak, those that leak most first."""
    if not found.leaking:
        return
    from expunge.report.leak_map import terminal, worst_first

    worst = [fact for fact in worst_first(found) if fact in found.leaking][:MOST_FACTS]
    heading(f"{counted(len(found.leaking), 'fact')} leaking: recovery in tenths, · where it is below the threshold")
    for line in terminal(found, worst, width=shutil.get_terminal_size().columns):
        draw_split(line)
    if len(found.leaking) > len(worst):
        say(f"{len(found.leaking) - len(worst)} more are in the result and its drawing.")


def _in_all(stated: "Mapping[str, Budget | str | None]", config: AttackConfig) -> str:
    """What all attacks compute together, in a line."""
    from expunge.attack.budget import Budget

    sums = sum((one for one in stated.values() if isinstance(one, Budget)), Budget(forms=()))
    of_control = ", and the same on the control"
    if config.control == NOTHING:
        of_control = ", and no control"
    elif config.control is not None and _is_result(config.control):
        of_control = " and nothing on the control, which was attacked before"
    silent = [name for name, one in stated.items() if one is None]
    unstated = f" Not counted, as its budget is unknown: {', '.join(silent)}." if silent else ""
    return f"budget: at most {sums.text}{of_control}.{unstated}"


def _dry_run(call: Call[AttackConfig]) -> int:
    """Show which attacks would be run on how many facts, what they compute, and what they are compared with."""
    from expunge.attack.attack import (
        budgets,
        check_control,
        check_forget,
        check_same_settings,
        chosen,
        dated_like,
        told,
        untaught,
    )
    from expunge.models.load import check_loading, check_tokenizer_fits
    from expunge.models.skeleton import skeleton

    config, problems = call.config, preview.Problems()
    corpus: Corpus | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    ways = stated = None
    output: Path | None = None
    with problems.collected():
        output = _output(config)
        check_measured(output)
        check_free(output)
        check_output_file(output / FILE, overwrite=call.overwrite)
    with problems.collected():
        ways = chosen(config.chosen, config.own_settings)
    with problems.collected():
        found = corpus_of(config, call.resolved.extra)
        check_forget(found)
        corpus = found
    with problems.collected():
        check_loading(config.model, device=config.device, bits=config.bits)
        tokenizer = tokenizer_of(config.model, config)
        check_tokenizer_fits(skeleton(config.model, trust_remote_code=config.trust_remote_code), tokenizer)
    preview.show_settings(call.resolved, {"attacks": (config.chosen, "default"), "output": (output, "next to the run")})
    if corpus is None:
        return problems.concluded()
    with problems.collected():
        if ways is not None:
            stated = budgets(ways, corpus, seed=config.seed, adapters=_has_adapters(config.model))
    with problems.collected():
        if config.control is None:
            untaught(corpus, config.seed)
        elif _is_result(config.control):
            before = load_attacked(config.control)
            check_control(before, corpus)
            if ways is not None and tokenizer is not None:
                template = dated_like(before, template_of(config), tokenizer)
                about = told(ways, template=template, max_length=config.max_length, seed=config.seed)
                check_same_settings(before, about)
        elif config.control != NOTHING:
            check_loading(config.control, device=config.device, bits=config.bits)
            control = skeleton(config.control, trust_remote_code=config.trust_remote_code)
            if tokenizer is not None:
                check_tokenizer_fits(control, tokenizer)
    if stated is not None:
        _show_budgets(stated, config, len(corpus["forget"]))
    if output is not None:
        say(f"output: {output / FILE}")
    with problems.collected():
        if tokenizer is not None:
            _show_row(corpus, tokenizer, config)
    return problems.concluded()


def _show_budgets(stated: "Mapping[str, Budget | str | None]", config: AttackConfig, facts: int) -> None:
    """Print what every attack computes on one model, and what is declared before it."""
    rows = []
    for name, one in stated.items():
        if one is None or isinstance(one, str):
            rows.append((name, "-", "-", "-", "unknown" if one is None else f"not run: {one}"))
            continue
        forms = ", ".join(form.removeprefix(f"{name}.") for form in one.forms if form != name)
        rows.append((name, str(one.scored), str(one.generated), str(one.steps), forms))
    heading(f"Attacks on {counted(facts, 'fact')}: at most, on one model")
    table(("attack", "rows scored", "answers generated", "gradient steps", "forms"), rows, numeric=(1, 2, 3))
    say()
    say(_in_all(stated, config))
    if config.control == NOTHING:
        say("control: nothing, so that every value counts as it is")
    elif config.control is None:
        say("control: untaught facts: the forget set with its answers exchanged")
    else:
        say(f"control: {config.control}, the {config.control_is}")
    say(f"threshold: a fact leaks from a recovery of {config.threshold:g} above the control on")


def _show_row(corpus: "Corpus", tokenizer: "PreTrainedTokenizerBase", config: AttackConfig) -> None:
    from expunge.data.tokenizing import encode

    row, *_ = encode(corpus["forget"][:1], tokenizer, template=template_of(config), max_length=config.max_length)
    preview.show_example(row, tokenizer, "First forget row")


VERB = Verb(
    name="attack",
    config=AttackConfig,
    run=attack,
    extra_settings=source_settings,
    shared=True,
    flags=("dry_run", "overwrite"),
    positional="[MODEL]",
    positional_is="model",
    note="Example: expunge attack runs/npo control=runs/retain forget=forget.jsonl retain=retain.jsonl\n\n"
    "Every deployed form: expunge attack runs/npo forget=forget.jsonl forms=all "
    "output=runs/npo-deployed",
)
