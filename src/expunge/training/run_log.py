"""What a run leaves in its folder while it goes on: history rows as they come, and whole checkpoints."""

import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import xxhash
from transformers import PreTrainedTokenizerBase

from expunge.core.checkpoints import FOLDER, close, history_of, rotate, sound, step
from expunge.core.manifest import Manifest
from expunge.core.whole import write_whole
from expunge.results.places import LOG


class RunLog:
    """Writes history and checkpoints of a run. Of several processes the first alone writes."""

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        manifest: Manifest,
        rows: Sequence[Mapping[str, float]] = (),
        *,
        keep: int,
    ) -> None:
        """Write into a run folder.

        Args:
            folder: of the run.
            tokenizer: saved with each checkpoint, so that it loads alone.
            manifest: of the run.
            rows: the history up to the checkpoint that the run goes on from.
            keep: checkpoints that stay, the latest; 0: all.
        """
        self.history = folder / LOG
        self.folder, self.tokenizer, self.manifest, self.rows, self.keep = folder, tokenizer, manifest, rows, keep

    def begin(self) -> None:
        """Have the history hold the rows so far; those to come are appended."""
        self.digest = xxhash.xxh3_128(_lines(self.rows))
        write_whole(self.history, _lines(self.rows).decode())

    def add(self, row: Mapping[str, float]) -> None:
        """Append one history row."""
        line = _lines([row])
        self.digest.update(line)
        with self.history.open("ab") as file:
            file.write(line)

    def checkpoint(self, number: int) -> Path:
        """Where the checkpoint of a step goes."""
        return self.folder / FOLDER / f"checkpoint-{number}"

    def clear(self, number: int) -> None:
        """Make room for a checkpoint: what a killed run left in its place goes."""
        shutil.rmtree(self.checkpoint(number), ignore_errors=True)

    def close(self, number: int, *, steps: int) -> None:
        """Declare a checkpoint whole that the trainer has written.

        Args:
            number: its step.
            steps: of the whole run.
        """
        self.tokenizer.save_pretrained(self.checkpoint(number))
        with self.history.open("rb") as file:
            os.fsync(file.fileno())  # a checkpoint is of use only with the history up to it
        close(self.checkpoint(number), self.manifest, steps=steps, history=self.digest.hexdigest())

    def rotate(self) -> None:
        """Remove the checkpoints that are not to be kept."""
        if self.keep:
            rotate(self.folder, keep=self.keep)


def resumable(folder: Path) -> tuple[Path | None, list[dict[str, float]]]:
    """The checkpoint that a run goes on from, with its history up to there; (None, []) where it begins anew.

    Warns of later checkpoints that cannot be used.

    Args:
        folder: of the run.
    """
    rows = _rows(folder / LOG)
    for path in sound(folder):
        before = rows[: step(path)]
        if len(before) < step(path):
            why = f"holds {len(rows)} steps before something is missing"
        elif xxhash.xxh3_128(_lines(before)).hexdigest() != history_of(path):
            why = f"was changed before step {step(path)}"
        else:
            return path, before
        warnings.warn(f"the checkpoint {path} is not used: {folder / LOG} {why}.", stacklevel=2)
    return None, []


def _lines(rows: Sequence[Mapping[str, float]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _rows(path: Path) -> list[dict[str, float]]:
    """Rows of steps 1, 2, ... up to the first that is missing or damaged."""
    rows: list[dict[str, float]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
                if row["step"] != len(rows) + 1:
                    break
            except (ValueError, TypeError, KeyError):
                break
            rows.append(row)
    return rows
