"""`expunge sweep`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.cli import preview
from expunge.cli.console import heading, say, table
from expunge.cli.inputs import corpus_of, load, source_settings, template_of, tokenizer_of
from expunge.cli.verb import Call, Verb
from expunge.cli.verbs._training import training_fields
from expunge.cli.verbs.localize import LocalizeConfig
from expunge.cli.verbs.localize import hyperparameters as of_attribution
from expunge.cli.verbs.unlearn import UnlearnRunConfig, check_source, hyperparameters, unlearn_fields
from expunge.config.resolve import Resolved, resolve
from expunge.config.settings import DEFAULT
from expunge.config.yaml_source import Layer
from expunge.core import catalogue
from expunge.core.checks import ExpungeError
from expunge.core.duration import seconds
from expunge.core.format import counted
from expunge.core.progress import shown
from expunge.data.data_config import DataConfig
from expunge.sweep.space import Choices, Parameter, Range
from expunge.sweep.study import StudyConfig
from expunge.sweep.study_file import MASK, SETTINGS, STUDY, StudyFile, read_study_file, refuse

if TYPE_CHECKING:
    from expunge.sweep.results import Studied
    from expunge.sweep.sweep import Setup
    from expunge.sweep.trial import Model

PLANNED = 20
"""Points that a dry run plans; what they need stands for all."""
_CHECKPOINTS = "the study keeps checkpoints, each of which is a candidate; study.every says how far they are apart."
_STOP = "each candidate is looked at, and the best one counts, so that nothing needs to end a run."
DECIDED = {
    "output": "the study says where its runs go.",
    "checkpoint_every": _CHECKPOINTS,
    "keep_checkpoints": _CHECKPOINTS,
    "stop_every": _CHECKPOINTS,
    "stop": _STOP,
    "stop_rows": _STOP,
    "stop_suite": _STOP,
    "continue": "name the model of the earlier run instead: model=<run folder>",
}
"""Settings of `unlearn` that a study decides, and why."""
ONE = {
    name: "a study is about one model and one request, so it stands under settings:, not under search:."
    for name in ("model", "tokenizer", "dtype", "bits", "device", "trust_remote_code", *DataConfig.__dataclass_fields__)
}


@dataclass(frozen=True, kw_only=True)
class SweepConfig(StudyConfig):
    """Which study, and where it is kept."""

    study: str
    """Study file: YAML with the sections `settings`, `search` and `study`. It may stand without `study=`."""
    output: str | None = None
    """Folder of the study, shared by all its workers; null: the name of the study file without its ending."""


def sweep(call: Call[SweepConfig]) -> int:
    """Try many settings of unlearn, and find those that forget best and keep what must stay.

    Any number of workers may run the same command on one shared folder, on any number of machines; a killed worker's
    run is done again by another one. `expunge sweep worker` is the same command, `expunge sweep show FOLDER` says how
    far a study is and what it found.
    """
    from expunge.sweep.journal import require_optuna

    require_optuna()
    if call.dry_run:
        return _dry_run(call)
    from expunge.sweep.sweep import run_study

    setup = _setup(call)
    setup.check(_shape(setup))
    folder = output_folder(call.config)
    with shown() as report:
        found = run_study(setup, folder, progress=report)
    _conclude(found)
    return 0


def output_folder(config: SweepConfig) -> Path:
    """Where the study is kept."""
    return Path(config.output) if config.output is not None else Path(config.study).with_suffix("")


def file_layers(layers: Sequence[Layer]) -> list[Layer]:
    """Layers of a user with those of the section `study` of the study file below them."""
    given = [layer.tree["study"] for layer in layers if "study" in layer.tree]
    if not given:
        return [*layers]
    below = read_study_file(str(given[-1])).layers(STUDY)
    refuse(below, {"study": "it is this file.", "output": "it stands in the command: output=<folder>"})
    return [*below, *layers]


def _recipe(layer: Layer, base: UnlearnRunConfig) -> dict[str, Any]:
    """The recipe of a mask, with values of their types; what was not given is left out."""
    from expunge.sweep.prepare import check_recipe

    refuse(
        [
            Layer({name: value}, {w: m for w, m in layer.marks.items() if w[0] == name})
            for name, value in layer.tree.items()
        ],
        dict.fromkeys(("output", "scores", *ONE), "the study has it."),
    )
    given = [Layer({"output": "mask"}), Layer({"model": base.model}), layer]
    read = resolve(LocalizeConfig, further_layers=lambda _: given, extra_settings=of_attribution)
    known = {name: getattr(read.config, name) for name in layer.tree if name in LocalizeConfig.__dataclass_fields__}
    found = {"attribution": read.config.attribution, **known, **read.extra}
    try:
        check_recipe(found)
    except ExpungeError as error:
        came_from = ", ".join(dict.fromkeys(mark.origin for mark in layer.marks.values()))
        raise ExpungeError(f"{error} (from {came_from})") from None
    return found


def run_settings(layers: Sequence[Layer]) -> Resolved[UnlearnRunConfig]:
    """The settings of a run."""
    return resolve(
        UnlearnRunConfig,
        further_layers=lambda _: [*layers, Layer({"output": "run"})],
        extra_settings=hyperparameters,
        unknown_hint=catalogue.of_adapters,
        verb="unlearn",
    )


def _without_recipe(layers: Sequence[Layer]) -> list[Layer]:
    """Settings without a mask that is a recipe, which no file is there for yet."""
    return [layer for layer in layers if not isinstance(layer.tree.get(MASK), Mapping)]


def _first(file: StudyFile) -> list[Layer]:
    """Of each method, retain loss and adapter that is searched the first: enough to read the settings of all runs."""
    from expunge.sweep.space import NAMING

    found = []
    for name in NAMING:
        texts = file.sections["search"].get(name)
        if isinstance(texts, list) and texts:
            found.append(Layer({name: texts[0]}))
    return found


def _setup(call: Call[SweepConfig]) -> "Setup":
    """The study that the command and its file describe, checked as far as the settings alone allow."""
    file = read_study_file(call.config.study)
    layers = file.layers(SETTINGS)
    refuse(layers, DECIDED)
    searched = [
        Layer({name.rpartition(".")[2]: None}, {(name.rpartition(".")[2],): file.marks[where]})
        for name, where in _searched(file)
    ]
    refuse(searched, DECIDED | ONE)
    plain = _without_recipe(layers)
    base = run_settings([*plain, *_first(file)])
    space = file.space(lambda layer: _recipe(layer, base.config))
    mask = file.fixed_mask(lambda layer: _recipe(layer, base.config))
    if mask is not None and any(parameter.setting == MASK for parameter in space.parameters):
        raise ExpungeError("mask is a setting of all runs and searched, too. Leave one out.")

    def settings(point: Mapping[str, Any]) -> dict[str, Any]:
        read = run_settings([*plain, *file.point_layers(point, space)])
        of_source = {setting.name for setting in source_settings({"source": read.config.source})}
        own = {name: value for name, value in read.extra.items() if name not in of_source}
        check_source(read.config, own)
        found = {**unlearn_fields(read.config), **training_fields(read.config), **own}
        drawn = space.settings(point).get(MASK, mask)
        found = {name: value for name, value in found.items() if name not in DECIDED}
        return {**found, "mask": drawn if isinstance(drawn, Mapping) else read.config.mask}

    for point in space.corners():
        settings(point)  # before data and model are read, which takes longer
    from expunge.sweep.sweep import Setup

    config = base.config
    fixed = dict(file.sections[SETTINGS])
    return Setup(
        config=_study(call.config),
        space=space,
        fixed=fixed if mask is None else {**fixed, MASK: mask},
        settings=settings,
        fresh=lambda: load(config.model, config)[0],
        control=lambda: load(str(call.config.control), config)[0],
        tokenizer=tokenizer_of(config.model, config),
        corpus=corpus_of(config, base.extra),
        template=template_of(config),
        max_length=config.max_length,
        source=config.model,
        trust_remote_code=config.trust_remote_code,
    )


def _searched(file: StudyFile) -> list[tuple[str, tuple[str | int, ...]]]:
    """What is searched, each with a place that has a line."""
    found = []
    for name in file.sections["search"]:
        where = next(w for w in file.marks if w[:2] == ("search", name))
        found.append((name, where))
    return found


def _study(config: SweepConfig) -> StudyConfig:
    return StudyConfig(**{name: getattr(config, name) for name in StudyConfig.__dataclass_fields__})


def _shape(setup: "Setup") -> "Model":
    """The start model without its weights."""
    from expunge.models.load import check_tokenizer_fits
    from expunge.models.skeleton import skeleton

    model = skeleton(setup.source, trust_remote_code=setup.trust_remote_code)
    check_tokenizer_fits(model, setup.tokenizer)
    return model


def _dry_run(call: Call[SweepConfig]) -> int:
    """Show what the study would try and what that takes; the exit code."""
    from expunge.sweep.estimate import estimate
    from expunge.sweep.measuring import measuring
    from expunge.sweep.sweep import check_asked

    config, problems = call.config, preview.Problems()
    setup: "Setup | None" = None
    with problems.collected():
        setup = _setup(call)
    if setup is None:
        return problems.concluded()
    points = None
    model = None
    with problems.collected():
        points = setup.points()
        setup.trials(points)
    with problems.collected():
        measured = measuring(setup.config, setup.tokenizer, setup.corpus, template=setup.template)
        check_asked(output_folder(config), setup.about(measured))
    with problems.collected():
        model = _shape(setup)
        setup.check(model)
    preview.show_settings(
        call.resolved, {"output": (str(output_folder(config)), DEFAULT), "sampler": (setup.sampler, DEFAULT)}
    )
    heading("Search")
    table(("setting", "values"), [(p.name, _values(p)) for p in setup.space.parameters])
    if points is None or model is None or problems.found:
        return problems.concluded()
    with problems.collected():
        found = estimate(setup, points, model, output_folder(config), most=PLANNED)
        heading("Work")
        total = "as many as the budget allows" if found.trials is None else counted(found.trials, "trial")
        say(
            f"{total}; a trial has {found.steps:.0f} steps and {found.tokens:.0f} tokens on average "
            f"({found.planned} planned)"
        )
        if found.trials is not None:
            say(f"{found.steps * found.trials:.0f} steps and {found.tokens * found.trials:.0f} tokens in all")
        say(found.time)
        if config.budget is not None:
            say(f"each worker begins trials for {seconds(config.budget, 'budget') / 60:.0f} min")
        preview.show_memory(found.memory)
        say("measuring and attacks come on top; the largest planned trial is shown")
    return problems.concluded()


def _values(parameter: Parameter) -> str:
    values = parameter.values
    if isinstance(values, Choices):
        return ", ".join(values.values)
    assert isinstance(values, Range)
    kind = " by factors" if values.log else ""
    return f"{values.low:g} to {values.high:g}{kind}{', whole numbers' if values.whole else ''}"


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Nothing: a study has no settings to be shown with."""


def show(call: Call[ShowConfig]) -> int:
    """Show what a study found so far: a table of recipes, the best one's command, and two drawings in its folder."""
    from expunge.sweep.results import load_studied

    if len(call.positional) != 1:
        raise ExpungeError("name the folder of one study: expunge sweep show <folder>")
    _conclude(load_studied(call.positional[0]))
    return 0


def _conclude(found: "Studied") -> None:
    """Say what was found."""
    from expunge.report.study_figures import write

    table(*found.table()[:2], numeric=found.table()[2])
    for trial in found.trials:
        if trial.state == "failed":
            say(f"trial {trial.number} failed: {trial.told['why']}")
    for sign in found.running():
        say(f"worker {sign['id']}: {sign['doing']}")
    top = found.best
    if top is None:
        say("no trial is finished yet")
        return
    if not found.groups[0].standing.feasible:
        say("note: no recipe keeps every constraint; the one that breaks them least stands first")
    if len(found.objectives) > 1:
        heading("Pareto front")
        rows = [
            (str(trial.number), str(step), *(f"{measures[o.measure]:.4g}" for o in found.objectives))
            for trial, step, measures in found.front
        ]
        table(("trial", "step", *map(str, found.objectives)), rows, numeric=tuple(range(len(found.objectives) + 2)))
    say()
    say(f"best: trial {top.number}, {top.model}")
    if (command := found.command(top)) is not None:
        say(f"as one run: {command}")
        if top.told["step"] != top.told["steps"]:
            say(f"its model is the checkpoint of step {top.told['step']}")
    drawings = write(found.drawn(), found.folder)
    if drawings:
        say(f"results: {found.folder / 'study.json'}; drawings: {', '.join(map(str, drawings))}")


def _chosen(words: Sequence[str]) -> tuple[Verb[Any], Sequence[str]]:
    """The verb that the first word names; a file there is the study."""
    if words[:1] == ["show"]:
        return SHOW, words[1:]
    words = words[1:] if words[:1] == ["worker"] else words
    if words and "=" not in words[0] and not words[0].startswith("-"):
        return VERB, [f"study={words[0]}", *words[1:]]
    return VERB, words


SHOW = Verb(name="sweep show", config=ShowConfig, run=show, positional="FOLDER")
VERB = Verb(
    name="sweep",
    config=SweepConfig,
    run=sweep,
    further_layers=file_layers,
    locks_output=False,
    flags=("dry_run",),
    choose=_chosen,
    note="Example: expunge sweep study.yaml output=runs/study trials=20 budget=2h",
)
