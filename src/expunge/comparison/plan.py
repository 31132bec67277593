"""What a comparison works on, known before any model is loaded."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from expunge.comparison.run_folders import (
    RunFolder,
    check_data,
    check_start,
    corpus_of,
    groups,
    labels,
    opened,
    require_alike,
    require_checkpoints,
    start_of,
)
from expunge.comparison.trace import Measuring
from expunge.core.checkpoints import checkpoints, step
from expunge.core.checks import ExpungeError, require_at_least, require_between
from expunge.data.corpus import Corpus, check_corpus
from expunge.data.template import Template
from expunge.models.load import check_model_folder, load_model, load_tokenizer
from expunge.results.curves import Trace
from expunge.results.foreign_logs import load_records
from expunge.results.records import Records

START, RETAIN = "start model", "retain model"
CALIBRATION_LEVEL = 0.95
MIXTURES = 26
"""Models measured of a run that is traced by mixing, at most; the first is the start model."""

Load = Callable[[str | Path], PreTrainedModel]


@dataclass(frozen=True)
class ComparisonPlan:
    """What a comparison works on, known before any model is loaded; the run and its dry run both ask for it."""

    folders: Sequence[RunFolder]
    others: Sequence[str]
    """Paths that are no runs, which are left out."""
    start: str | Path | Records
    corpus: Corpus
    trace: Trace

    @property
    def named(self) -> list[tuple[RunFolder, str, str]]:
        """Each run with its name and the row of the summary that it goes into."""
        shared, names = groups(self.folders), labels(self.folders)
        return [(folder, name, shared[folder.path]) for name, folder in zip(names, self.folders, strict=True)]

    def loader(self, *, dtype: str, device: str | None, trust_remote_code: bool) -> Load:
        """How each of the models is loaded; arguments as for `compare`."""
        # Checkpoints hold float32 masters; all models are measured in the type of the results.
        stored = _stored_type(self.folders[0].path) if dtype == "auto" else dtype

        def load(source: str | Path) -> PreTrainedModel:
            return load_model(source, dtype=stored, device=device, trust_remote_code=trust_remote_code)

        return load

    def measuring(
        self, *, quality: bool, tokenizer: str | Path | None, trust_remote_code: bool, batch_size: int | None
    ) -> Measuring:
        """How each of the models is measured.

        Args:
            quality: is there a retain model?
            tokenizer: as for `compare`.
            trust_remote_code: likewise.
            batch_size: likewise.
        """
        first = self.folders[0]
        return Measuring(
            tokenizer=load_tokenizer(tokenizer or first.path, trust_remote_code=trust_remote_code),
            corpus=self.corpus,
            quality=quality,
            paraphrased=self.trace == "mixing",
            template=Template(**first.manifest.arguments["template"]),
            max_length=first.manifest.arguments["max_length"],
            batch_size=batch_size,
        )


def planned(
    runs: str | Path | Sequence[str | Path],
    *,
    corpus: Corpus | None = None,
    start: str | Path | Records | None = None,
    trace: Trace = "checkpoints",
    level: float = CALIBRATION_LEVEL,
    rows: int | None = None,
) -> ComparisonPlan:
    """Check what `compare` was given, as far as that is possible without a model; arguments as for `compare`."""
    require_between("level", level, 0, 1)
    if rows is not None:
        require_at_least("rows", rows, 1)
    if corpus is not None:
        check_corpus(corpus)
    if trace not in ("checkpoints", "mixing"):
        raise ExpungeError(f"trace must be checkpoints or mixing; got {trace!r}.")
    folders, others = opened(runs)
    if trace == "checkpoints":
        require_checkpoints(folders)
    require_alike(folders)
    start = start_of(folders) if start is None else start
    if trace == "mixing" and isinstance(opened_source(start), Records):
        raise ExpungeError(f"trace=mixing needs the start model itself, and {_told(start)} are records of it.")
    corpus = corpus if corpus is not None else corpus_of(folders[0])
    plan = ComparisonPlan(folders, others, start, corpus.limited(rows), trace)
    check_source(start, START, plan)
    return plan


def check_source(source: str | Path | Records, what: str, plan: ComparisonPlan) -> None:
    """Raise where a start or retain model is no model, or records of other data or of another start model."""
    held = opened_source(source)
    if not isinstance(held, Records):
        check_model_folder(str(held))
        return
    check_data(held, plan.corpus, what)
    if what == START:
        check_start(plan.folders, held)


def models_of(folder: RunFolder) -> list[tuple[int, Path]]:
    """(step, folder) of the checkpoints that a run kept, then of its last model."""
    last = int(folder.manifest.results["steps"])
    return [*((at, path) for path in checkpoints(folder.path) if (at := step(path)) < last), (last, folder.path)]


def _stored_type(folder: Path) -> str:
    """The type that a result's weights are saved in; `auto` for an adapter alone, which has its start model's."""
    config = folder / "config.json"
    return json.loads(config.read_text(encoding="utf-8")).get("dtype", "auto") if config.is_file() else "auto"


def opened_source(source: str | Path | Records) -> Records | str | Path:
    """Records where the source is some; else the model that it names."""
    if isinstance(source, Records):
        return source
    path = Path(source)
    if (path / "config.json").is_file() or (path / "adapter_config.json").is_file() or not path.exists():
        return source
    return load_records(path)


def _told(source: str | Path | Records) -> str:
    return "they" if isinstance(source, Records) else f"those at {source}"
