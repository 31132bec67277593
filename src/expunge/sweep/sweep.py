"""Sweep: a model, data, and settings with their values in; the best model that keeps the constraints out."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.attack import attack
from expunge.config.signature import shows_settings
from expunge.core.checks import ExpungeError, path_of, require_type, unknown
from expunge.core.duration import seconds
from expunge.core.json_text import read_object
from expunge.core.manifest import jsonable, versions
from expunge.core.progress import Progress, processes, under
from expunge.data.corpus import Corpus, check_corpus
from expunge.data.template import Template, dated
from expunge.localize.localize import localize
from expunge.models.fingerprint import base_fingerprint
from expunge.models.load import check_loaded, load_model
from expunge.results.attacked import FILE as ATTACKED
from expunge.results.attacked import load_attacked
from expunge.results.studies import ASKED, TRIAL, finished
from expunge.sweep.claims import Claims
from expunge.sweep.journal import opened, require_optuna, storage_of, without_password
from expunge.sweep.measuring import Measuring, measuring
from expunge.sweep.objective import RECOVERY
from expunge.sweep.places import CONTROL, START, mask_file, write_once
from expunge.sweep.prepare import Job, check_recipe, prepare, split_recipe
from expunge.sweep.results import FORMAT, Studied, finite, load_studied
from expunge.sweep.samplers import Sampler, Source, source
from expunge.sweep.space import Choices, Point, Space
from expunge.sweep.study import StudyConfig
from expunge.sweep.trial import OWN, Bench, Model, keep_evaluation
from expunge.sweep.worker import WAIT, Labor, work
from expunge.sweep.workers import Watch, Worker, alive
from expunge.training.plan import Plan, plan_unlearning, split_settings

_MAY_CHANGE = ("trials", "budget", "storage", "replay", "keep", "prune")
"""What a study may go on with otherwise than it began."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A study, ready to be worked on: what it searches, and how a point becomes a run."""

    config: StudyConfig
    space: Space
    fixed: Mapping[str, Any]
    """Settings of all runs, for the record."""
    settings: Callable[[Mapping[str, Any]], dict[str, Any]]
    """From a point, the arguments of `unlearn` and `mask`, a file or a recipe."""
    fresh: Callable[[], Model]
    """The start model, to be changed."""
    control: Callable[[], Model]
    """The control, where the study names one."""
    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    template: Template | None = None
    max_length: int = 512
    source: str = ""
    """Where the start model was loaded from, on the command line."""
    trust_remote_code: bool = False

    @property
    def sampler(self) -> Sampler:
        """The one that was asked for; else a grid where every setting has a list, and TPE otherwise."""
        lists = all(isinstance(parameter.values, Choices) for parameter in self.space.parameters)
        return self.config.sampler or ("grid" if lists else "tpe")

    @property
    def objectives(self) -> int:
        """How many."""
        return max(1, len(self.config.objective))

    def points(self) -> Source:
        """Where the points come from."""
        replayed = replayed_points(self.config.replay) if self.config.replay is not None else ()
        return source(self.sampler, self.space, seed=self.config.seed, objectives=self.objectives, replayed=replayed)

    def trials(self, points: Source) -> int | None:
        """How many runs there are to be; None: as many as the budget allows.

        Raises:
            ExpungeError: nothing says how many, or for how long.
        """
        counts = [count for count in (self.config.trials, points.count) if count is not None]
        if not counts and self.config.budget is None:
            raise ExpungeError("a study needs an end: trials=<runs>, or budget=<time>, such as 2h")
        return min(counts) if counts else None

    def sample(self, points: Source, most: int) -> list[Point]:
        """The first points, for an estimate; where the sampler goes by what was found, points drawn by chance."""
        total = self.trials(points)
        count = most if total is None else min(most, total)
        if self.sampler in ("grid", "random") or self.config.replay is not None:
            return [dict(points.fixed(number, None)) for number in range(count)]  # type: ignore[arg-type]
        return [self.space.drawn(number, self.config.seed) for number in range(count)]

    def recipes(self) -> list[Mapping[str, Any]]:
        """The recipes of masks that the study uses."""
        found = [self.fixed.get("mask")]
        for parameter in self.space.parameters:
            if parameter.setting == "mask" and isinstance(parameter.values, Choices):
                found += parameter.values.values.values()
        return [recipe for recipe in found if isinstance(recipe, Mapping)]

    def check(self, model: Model) -> None:
        """Raise for what no run of the study could be made with; nothing is computed.

        Args:
            model: the start model, of which shapes alone are read.
        """
        self.trials(self.points())
        for recipe in self.recipes():
            check_recipe(recipe)
        for point in self.space.corners():
            self.plan(point, model)

    def plan(self, point: Mapping[str, Any], model: Model) -> Plan:
        """The run of a point, planned.

        Raises:
            ExpungeError: it cannot be made, or sets what the study decides.
        """
        settings = self.settings(point)
        if own := [name for name in (*OWN, "stop", "output_dir") if name in settings]:
            raise ExpungeError(
                f"{own[0]} is decided by the study: each checkpoint is a candidate, every=<epochs> apart. Leave it out."
            )
        mask = settings.pop("mask", None)
        try:
            return plan_unlearning(
                model,
                *split_settings({**settings, "stop_every": self.config.every, "checkpoint_every": self.config.every}),
                corpus=self.corpus,
                mask=None if isinstance(mask, Mapping) else mask,
                template=self.template,
                max_length=self.max_length,
            )
        except ExpungeError as error:
            told = ", ".join(f"{name}={value}" for name, value in point.items())
            raise ExpungeError(f"{error} (of the point {told})") from error

    def about(self, measured: Measuring) -> dict[str, Any]:
        """What the folder says that the study is."""
        config = {name: value for name, value in asdict(self.config).items() if name not in _MAY_CHANGE}
        return {
            "study": jsonable({**config, "sampler": self.sampler}),
            "objective": [list(asked) for asked in measured.asked],
            "constraints": [asdict(one) for one in measured.constraints],
            "settings": jsonable(self.fixed),
            "search": {p.name: _written(p.values) for p in self.space.parameters},
            "data": self.corpus.fingerprints(),
        }


def _written(values: Any) -> Any:
    return list(values.values) if isinstance(values, Choices) else asdict(values)


def replayed_points(folder: str | Path) -> list[Point]:
    """The points of another study in their order.

    Raises:
        ExpungeError: there is none in this folder.
    """
    points = [dict(read_object(path / TRIAL)["point"]) for _, path in finished(Path(folder))]
    if not points:
        raise ExpungeError(f"replay={folder} holds no finished trial of a study.")
    return points


def check_asked(folder: Path, about: Mapping[str, Any]) -> None:
    """Raise where a folder is of another study, or of something else.

    Raises:
        ExpungeError: it is; the message says what differs.
    """
    if not (folder / ASKED).is_file():
        if folder.exists() and (not folder.is_dir() or any(not p.name.startswith(".") for p in folder.iterdir())):
            raise ExpungeError(f"the output {folder} is in use, and holds no study. Choose another output.")
        return
    before = read_object(folder / ASKED)
    differing = [
        name if not isinstance(value, Mapping) else f"{name}.{key}"
        for name, value in about.items()
        for key in (_differing(value, before.get(name)) if isinstance(value, Mapping) else [""])
        if isinstance(value, Mapping) or value != before.get(name)
    ]
    if differing:
        raise ExpungeError(
            f"the folder {folder} holds another study. Not the same: {', '.join(differing)}. Choose another output; "
            f"{', '.join(_MAY_CHANGE)} may change."
        )


def _differing(ours: Mapping[str, Any], theirs: Any) -> list[str]:
    other = theirs if isinstance(theirs, Mapping) else {}
    return sorted(key for key in {*ours, *other} if ours.get(key) != other.get(key))


def run_study(setup: Setup, folder: Path, *, progress: Progress | None = None) -> Studied:
    """Work on a study until it is finished, or this worker's time is up; any number of workers may do so at once.

    Args:
        setup: the study, checked.
        folder: shared by all workers.
        progress: called with (what, done, total, numbers).
    """
    require_optuna()
    if processes() > 1:
        raise ExpungeError(
            "a worker of a sweep is one process: start several of them, each with a GPU of its own, without a launcher."
        )
    config, worker = setup.config, Worker.here()
    points = setup.points()
    trials = setup.trials(points)
    measured = measuring(
        config,
        setup.tokenizer,
        setup.corpus,
        template=setup.template,
        max_length=setup.max_length,
        progress=progress,
    )
    about = setup.about(measured)
    check_asked(folder, about)
    folder.mkdir(parents=True, exist_ok=True)
    identity = {
        "format": FORMAT,
        "id": uuid.uuid4().hex,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "storage": "journal" if config.storage is None else without_password(config.storage),
        "versions": versions(),
        "command_line": bool(setup.source),
        "every": config.every,
        **about,
    }
    if not write_once(folder / ASKED, identity, worker.id):
        check_asked(folder, about)  # another worker has just written it
    name = str(read_object(folder / ASKED)["id"])
    storage = storage_of(folder, config.storage)
    watch = Watch(folder)
    with alive(folder, worker) as doing:
        doing("preparing")
        once = Claims(opened(storage, f"{name}-prepared", 1), worker, watch)
        prepare(jobs(setup, folder, measured, worker, progress), once, wait=WAIT)
        if measured.controlled and measured.needs(RECOVERY):
            measured = replace(measured, control=load_attacked(folder / CONTROL))
        begun = load_studied(folder)
        # The date that prompts carry, where they do, is the same in all runs, whenever a worker begins.
        date = read_object(folder / START)["date"]
        measured = replace(measured, template=dated(setup.template, setup.tokenizer, like=date))

        def masks(mask: Any) -> Path | str | None:
            return mask_file(folder, mask) if isinstance(mask, Mapping) else mask

        bench = Bench(
            config=config,
            fresh=setup.fresh,
            tokenizer=setup.tokenizer,
            corpus=setup.corpus,
            settings=setup.settings,
            masks=masks,
            measuring=measured,
            start=begun.start,
            objectives=begun.objectives,
            template=measured.template,
            max_length=setup.max_length,
            progress=progress,
        )

        def after() -> str:
            found = load_studied(folder)
            found.save(worker.id)
            return told(found)

        labor = Labor(
            folder=folder,
            space=setup.space,
            source=points,
            claims=Claims(opened(storage, name, setup.objectives), worker, watch),
            run=bench.run,
            trials=trials,
            seconds=None if config.budget is None else seconds(config.budget, "budget"),
            prunes=config.prune,
            finished=after,
            doing=doing,
            progress=progress,
        )
        work(labor)
    after()
    return load_studied(folder)


def told(found: Studied) -> str:
    """The best so far, in a few numbers."""
    top = found.best
    if top is None or top.standing is None:
        return ""
    values = ", ".join(f"{name} {top.measures[name]:.3g}" for name in found.names)
    return f"best: trial {top.number}, {values}" + ("" if top.standing.feasible else ", breaks a constraint")


def jobs(setup: Setup, folder: Path, measured: Measuring, worker: Worker, progress: Progress | None) -> Sequence[Job]:
    """What is made once for all runs."""
    common: dict[str, Any] = {"template": setup.template, "max_length": setup.max_length}

    def start() -> None:
        evaluation = measured.measured(setup.fresh(), "start model")
        measures = {name: evaluation[name] for name in measured.names}
        objectives = measured.objectives(measures)
        content = {
            "measures": finite({name: float(measure) for name, measure in measures.items()}),
            "objectives": [asdict(one) for one in objectives],
            "date": None if measured.template is None else measured.template.date,
        }
        keep_evaluation(evaluation, folder / "start", "start model")
        write_once(folder / START, content, worker.id)

    def control() -> None:
        given = setup.config.control
        assert given is not None
        if (Path(given) / ATTACKED).is_file():
            load_attacked(given).save(folder / CONTROL)
            return
        attack(
            setup.control(),
            setup.tokenizer,
            measured.corpus,
            attacks=measured.attacks,
            label="control",
            texts="drop",
            output_dir=folder / CONTROL,
            overwrite=True,
            progress=under(progress, "control"),
            **{**common, "template": measured.template},
        )

    def mask(recipe: Mapping[str, Any]) -> Callable[[], object]:
        def make() -> None:
            scored, selection = split_recipe(recipe)
            file = mask_file(folder, recipe)
            file.parent.mkdir(exist_ok=True)
            model = setup.fresh()
            scores = localize(model, setup.tokenizer, setup.corpus, progress=progress, **common, **scored)
            scores.select(**selection).save(file)

        return make

    found = [Job("start model", folder / START, start)]
    if measured.controlled and measured.needs(RECOVERY):
        found.append(Job("control", folder / CONTROL / ATTACKED, control))
    distinct = {mask_file(folder, recipe): recipe for recipe in setup.recipes()}
    return [*found, *(Job("mask", file, mask(recipe)) for file, recipe in sorted(distinct.items()))]


@shows_settings(StudyConfig)
def sweep(
    model: PreTrainedModel | PeftModel | str | Path,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    search: Mapping[str, Any],
    output_dir: str | Path,
    settings: Mapping[str, Any] | None = None,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
    **study: Any,
) -> Studied:
    """Try many settings of `unlearn`, and find those that forget best and keep what must stay.

    Any number of processes on any number of machines may call this with the same arguments on one shared folder: each
    setting is run once, whoever is killed meanwhile. Needs the extra `optuna`.

    Args:
        model: the start model, of which each run changes a copy, or its folder or id, from which each run loads it.
        tokenizer: its tokenizer.
        corpus: holds `forget` and `retain`.
        search: setting to a list of values, or to a range `{"low": 1e-6, "high": 1e-4, "log": True}`; any setting of
            `unlearn`. `npo.beta` takes part with npo alone. A `mask` is None, a file, or a recipe: settings of
            `localize` and of `Scores.select`, such as `{"attribution": "wagle", "ratio": 0.1}`. The mask is made
            once.
        output_dir: folder of the study. One with a part of the same study is gone on with.
        settings: of `unlearn`, the same in all runs.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers).
        **study: fields of `StudyConfig`: `sampler`, `trials`, `budget`, `objective`, `constraint`, ...

    Returns:
        What was found: trials, groups over seeds, the best, the Pareto front.

    Raises:
        ExpungeError: settings that no run takes, measures that are not available, a folder with another study.
    """
    check_corpus(corpus)
    folder = path_of("output_dir", output_dir)
    known = StudyConfig.__dataclass_fields__
    if unheard := [name for name in study if name not in known]:
        raise unknown("setting of a study", unheard[0], known)
    require_type("search", search, dict, "a mapping of settings to their values")
    require_type("settings", settings or {}, dict, "a mapping of settings to values")
    config, fixed = StudyConfig(**study), dict(settings or {})
    space = Space.read(search, fixed)
    shape: Model = load_model(model) if isinstance(model, str | Path) else model
    check_loaded(shape, tokenizer)

    def fresh() -> Model:
        return load_model(model) if isinstance(model, str | Path) else deepcopy(model)

    def control() -> Model:
        assert config.control is not None
        return load_model(config.control)

    setup = Setup(
        config=config,
        space=space,
        fixed={**fixed, "model": str(model) if isinstance(model, str | Path) else base_fingerprint(model)},
        settings=lambda point: {**fixed, **space.settings(point)},
        fresh=fresh,
        control=control,
        tokenizer=tokenizer,
        corpus=corpus,
        template=template,
        max_length=max_length,
    )
    setup.check(shape)
    return run_study(setup, folder, progress=progress)
