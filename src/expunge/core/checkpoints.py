"""Where the checkpoints of a run are."""

from pathlib import Path

FOLDER = "checkpoints"


def checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints in a run folder, by rising step."""
    # A checkpoint cut off while being written lacks trainer_state.json, which is written last.
    found = [p.parent for p in (run / FOLDER).glob("checkpoint-*/trainer_state.json")]
    return sorted(found, key=step)


def step(checkpoint: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])
