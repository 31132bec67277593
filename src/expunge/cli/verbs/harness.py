"""`expunge harness`."""

from dataclasses import dataclass
from pathlib import Path

from expunge.cli.console import say
from expunge.cli.inputs import LoadingConfig, load
from expunge.cli.verb import Call, Verb
from expunge.cli.verbs.evaluate import show
from expunge.core.checks import ExpungeError, require_at_least
from expunge.core.output import check_output_file

FILE = "harness.json"


@dataclass(frozen=True, kw_only=True)
class HarnessConfig(LoadingConfig):
    """Which tasks a model is given, and how."""

    model: str | None = None
    """Model to evaluate: a folder (a run folder too) or a hub id."""
    tasks: tuple[str, ...] = ("wmdp", "mmlu")
    """Tasks or groups of the harness, or of `task_folder`."""
    task_folder: str | None = None
    """Folder of task files (YAML) of your own; they may read local data."""
    num_fewshot: int | None = None
    """Examples before each question; null: as the task says."""
    limit: int | None = None
    """At most so many questions a task; null: all."""
    batch_size: int = 8
    """Rows computed at once."""
    output: str | None = None
    """Folder for `harness.json`; null: the results are only shown."""
    label: str | None = None
    """What the model is called in tables; null: the name of its folder."""

    def __post_init__(self) -> None:
        require_at_least("batch_size", self.batch_size, 1)
        for name, value, least in (("num_fewshot", self.num_fewshot, 0), ("limit", self.limit, 1)):
            if value is not None:
                require_at_least(name, value, least)
        if not self.tasks:
            raise ExpungeError("harness needs at least one task: tasks=wmdp,mmlu")


def harness(call: Call[HarnessConfig]) -> int:
    """Give a model tasks of lm-evaluation-harness, such as WMDP and MMLU (needs the extra `lm-eval`)."""
    config = call.config
    if config.model is None:
        raise ExpungeError("harness needs a model: model=<folder or hub id>")
    path = None if config.output is None else Path(config.output) / FILE
    check_output_file(path, overwrite=call.overwrite)
    from expunge.evaluation.lm_eval import harness as stage

    model, tokenizer = load(config.model, config)
    result = stage(
        model,
        tokenizer,
        config.tasks,
        task_folder=config.task_folder,
        num_fewshot=config.num_fewshot,
        limit=config.limit,
        batch_size=config.batch_size,
        label=config.label or Path(config.model).name,
    )
    show(result)
    if path is not None:
        say(f"\nresults: {result.save(path)}")
    return 0


VERB = Verb(
    name="harness",
    replaces_output=False,
    config=HarnessConfig,
    run=harness,
    flags=("overwrite",),
    note="Example: expunge harness model=runs/npo tasks=wmdp,mmlu output=runs/npo",
)
