"""Experiment trackers: TensorBoard, trackio and Weights & Biases get each history row as it is made."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from expunge.core.checks import ExpungeError
from expunge.core.whole import write_whole
from expunge.training.trainer import ObjectiveTrainer
from expunge.training.training_config import TrainingConfig

FOLDER = "tracking"
PROJECT = "expunge"
_RUN_NAME = "run_name.txt"


def check_tracking(config: TrainingConfig, output_dir: str | Path | None) -> None:
    """Raise where a tracker is asked for and there is no run folder to keep its files in."""
    if config.report_to and output_dir is None:
        raise ExpungeError(
            f"report_to={','.join(config.report_to)} keeps files in the run folder, and there is none: give an output "
            "folder."
        )


def run_name(folder: Path, *, resume: bool) -> str:
    """The name of a run in trackers: its folder's, made unique. A resumed run keeps it, so that rows are appended."""
    kept = folder / FOLDER / _RUN_NAME
    if resume and kept.is_file():
        return kept.read_text(encoding="utf-8").strip()
    return f"{folder.resolve().name}-{secrets.token_hex(3)}"


@contextmanager
def tracked(trainer: ObjectiveTrainer, folder: Path | None, *, done: int) -> Iterator[None]:
    """Have the trainer's trackers write into the run folder meanwhile, and close them however the run ends.

    Args:
        trainer: its own callbacks feed the trackers.
        folder: the run folder, opened.
        done: steps that are not run again; what a killed run has logged beyond them is replaced in TensorBoard.
    """
    kinds = (TensorBoardCallback, TrackioCallback, WandbCallback)
    trackers = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, kinds)]
    if folder is None or not trackers or not trainer.is_world_process_zero():
        yield
        return
    (folder / FOLDER).mkdir(exist_ok=True)
    write_whole(folder / FOLDER / _RUN_NAME, f"{trainer.args.run_name}\n")
    for tracker in trackers:
        # By default TensorBoard's files would go with the checkpoints, which are removed when the run ends.
        if isinstance(tracker, TensorBoardCallback) and tracker.logging_dir is None:
            tracker.tb_writer = tracker._SummaryWriter(str(folder / FOLDER), purge_step=done + 1)
    # wandb takes these from the environment only; what the user has set there goes first.
    wandb = any(isinstance(tracker, WandbCallback) for tracker in trackers)
    wished = {
        "WANDB_DIR": str(folder / FOLDER),
        "WANDB_PROJECT": PROJECT,
        "WANDB_RUN_ID": str(trainer.args.run_name),
        "WANDB_RESUME": "allow",
    }
    added = {name: value for name, value in wished.items() if wandb and name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for tracker in trackers:  # a stopped run never comes to its trackers' own end; a second end does nothing
            tracker.on_train_end(trainer.args, trainer.state, trainer.control, model=trainer.model)
            if isinstance(tracker, WandbCallback):
                tracker._wandb.finish()  # else the next run of this process would be logged as part of this one
        for name in added:
            del os.environ[name]
