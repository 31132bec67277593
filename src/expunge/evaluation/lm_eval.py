"""Tasks of lm-evaluation-harness on our model object: it goes in, Measures come out. Needs the extra `lm-eval`."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.checks import ExpungeError, unknown
from expunge.core.manifest import versions
from expunge.evaluation.bootstrap import mean_interval
from expunge.models.fingerprint import model_fingerprint, tokenizer_fingerprint
from expunge.results.measures import Definition, Direction, Evaluation, Measure

SOURCE = "lm-evaluation-harness"
SUITE = "lm-eval"


def harness(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    task_folder: str | Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    better: Mapping[str, Direction] | None = None,
    label: str = "model",
) -> Evaluation:
    """Run tasks of lm-evaluation-harness on a model that is in memory.

    Args:
        model: a causal language model; in evaluation mode afterwards.
        tokenizer: its tokenizer.
        tasks: names of tasks or groups, such as `wmdp`, `mmlu`, `hellaswag`, or of those in `task_folder`.
        task_folder: folder of task files (YAML) of your own; they may read local data.
        num_fewshot: examples before each question; None: as the task says (0 for WMDP and MMLU).
        limit: at most so many questions a task; None: all.
        batch_size: rows computed at once.
        better: direction of a task's measures; `near` is near chance, 0.25. None: near for `wmdp...`, else higher where
            the harness says so.
        label: what the model is called in tables.

    Returns:
        One Measure for each task and metric, `<task>_<metric>`, with per-example values and a bootstrap interval; for
        groups the harness's own figure, weighted by task size, with its standard error as interval.

    Raises:
        ExpungeError: the harness is not installed, no task is named, or one is unknown.
    """
    if not tasks:
        raise ExpungeError("no task named. Tasks of the harness: lm-eval ls tasks")
    lm_eval, evaluator, manager, wrapper = _imported(task_folder)
    known = manager.all_tasks
    for task in tasks:
        if task not in known:
            raise unknown("task of lm-evaluation-harness", task, known)
    with_model = wrapper(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    # It asks git for a revision that is not used here, and outside of a git tree git complains aloud.
    with patch.object(evaluator, "get_git_commit_hash", lambda: None, create=True):
        found = lm_eval.simple_evaluate(
            model=with_model,
            tasks=list(tasks),
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=limit,
            log_samples=True,
            verbosity="ERROR",
        )
    measures = _measures(found, better or {})
    about = {
        "inputs": {"model": model_fingerprint(model), "tokenizer": tokenizer_fingerprint(tokenizer)},
        "settings": {"tasks": list(tasks), "num_fewshot": num_fewshot, "limit": limit, "batch_size": batch_size},
        "task_versions": dict(found.get("versions", {})),
        "versions": {**versions(), "lm_eval": getattr(lm_eval, "__version__", "unknown")},
    }
    return Evaluation(measures, label=label, suite=SUITE, about=about)


def _imported(task_folder: str | Path | None) -> tuple[Any, Any, Any, Any]:
    try:
        lm_eval, evaluator = importlib.import_module("lm_eval"), importlib.import_module("lm_eval.evaluator")
        wrapper = importlib.import_module("lm_eval.models.huggingface").HFLM
        manager = importlib.import_module("lm_eval.tasks").TaskManager
    except ImportError as error:
        raise ExpungeError(
            f"the tasks of lm-evaluation-harness need it installed ({error}): pip install 'expunge[lm-eval]'. Without "
            "it: the suites wmdp and multiple_choice on local files."
        ) from error
    if task_folder is not None and not Path(task_folder).is_dir():
        raise ExpungeError(f"no folder of task files at '{task_folder}'.")
    return lm_eval, evaluator, manager(include_path=None if task_folder is None else str(task_folder)), wrapper


def _measures(found: Mapping[str, Any], better: Mapping[str, Direction]) -> dict[str, Measure]:
    measures: dict[str, Measure] = {}
    for task, results in {**found["results"], **found.get("groups", {})}.items():
        samples = found.get("samples", {}).get(task)
        higher = found.get("higher_is_better", {}).get(task, {})
        for key, value in results.items():
            name, _, filtered = key.partition(",")
            if not isinstance(value, int | float) or name.endswith("_stderr") or not filtered:
                continue
            per_example = _per_example(samples, name)
            n = found.get("n-samples", {}).get(task, {}).get("effective") or len(per_example) or _size(found, task)
            error = results.get(f"{name}_stderr,{filtered}")
            measures[f"{task}_{name}"] = _measure(
                task,
                name,
                float(value),
                n,
                per_example,
                error,
                better.get(task) or _direction(task, higher.get(name)),
            )
    return measures


def _measure(task: str, name: str, value: float, n: int, values: np.ndarray, error: Any, better: Direction) -> Measure:
    is_mean = len(values) > 0 and abs(float(values.mean()) - value) < 1e-9
    interval = mean_interval(values) if is_mean else None
    if interval is None and isinstance(error, int | float):
        interval = (value - 1.96 * error, value + 1.96 * error)
    definition = Definition(
        text=f"{name} of the task {task}, as lm-evaluation-harness has it", source=SOURCE, better=None
    )
    return definition.measure(
        value,
        n=n,
        better=better,
        target=0.25 if better == "near" else None,
        interval=interval,
        per_example=tuple(values.tolist()) if is_mean else (),
    )


def _per_example(samples: Sequence[Mapping[str, Any]] | None, name: str) -> np.ndarray:
    values = [sample[name] for sample in samples or () if isinstance(sample.get(name), int | float)]
    return np.array(values, dtype=np.float64)


def _size(found: Mapping[str, Any], group: str) -> int:
    members = found.get("group_subtasks", {}).get(group, [])
    return sum(found.get("n-samples", {}).get(task, {}).get("effective", 0) for task in members)


def _direction(task: str, higher_is_better: bool | None) -> Direction:
    if task.startswith("wmdp"):
        return "near"
    return "lower" if higher_is_better is False else "higher"
