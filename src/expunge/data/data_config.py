"""Which data a stage reads and how it is framed: a dataclass that checks itself. No torch here."""

from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.core.checks import ExpungeError, require_at_least


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Which data are read."""

    source: str = "files"
    """Where the corpus comes from: `files` for your own data, a name that `expunge list sources` shows, or
    `package.module:function`."""
    path: str | None = None
    """Folder of a benchmark's files, for sources that read one."""
    forget: str | None = None
    """Forget set: a JSON, JSON lines, CSV, TSV or Parquet file, several as `a,b`, a folder of them or a dataset id
    (`files`), or the name of a split (`tofu`)."""
    retain: str | None = None
    """Retain set, likewise."""
    holdout: str | None = None
    """Holdout set, never trained on, likewise."""
    sets: dict[str, str] = field(default_factory=dict)
    """More sets of your own by name, such as further retain sets: `sets.general=general.jsonl`."""
    columns: dict[str, str | dict[str, str]] = field(default_factory=dict)
    """Which column of your files holds what, in all sets (`columns.question=q`) or in one
    (`columns.holdout.question=asked`)."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(CorpusConfig):
    """How data become token rows."""

    template: Literal["auto", "chat", "plain"] = "auto"
    """How questions are framed: the tokenizer's chat template, or plain text; `auto` takes chat where there is a
    template."""
    system: str | None = None
    """System message before each question, with a chat template."""
    template_arguments: dict[str, Any] = field(default_factory=dict)
    """More variables for the chat template."""
    date: str | None = None
    """Date that the prompts carry where the chat template writes today's, such as `2026-01-31`; null: today, and that
    of the run or the records that are gone on from or compared with."""
    max_length: int = 512
    """Longest row in tokens; longer ones lose their end, which is counted and reported."""

    def __post_init__(self) -> None:
        require_at_least("max_length", self.max_length, 2)
        if self.template not in ("auto", "chat", "plain"):
            raise ExpungeError(f"template must be auto, chat or plain; got {self.template!r}.")
