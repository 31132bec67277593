"""`expunge evaluate`."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expunge.cli.console import heading, say, table
from expunge.cli.inputs import LoadingConfig, corpus_of, load, source_settings, template_of
from expunge.cli.verb import Call, Verb
from expunge.cli.verbs._measuring import dry_run, lacks_records, made_here, output_folder
from expunge.cli.verbs.explain import explain
from expunge.core.checks import ExpungeError, require_at_least
from expunge.core.progress import Progress, shown
from expunge.data.config import DataConfig
from expunge.results.measures import Evaluation

if TYPE_CHECKING:
    from expunge.data.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(LoadingConfig, DataConfig):
    """What is measured, and against what."""

    model: str | None = None
    """Model to evaluate: a folder (a run folder too) or a hub id."""
    records: str | None = None
    """Records to measure again instead of a model: a folder of them, a run folder, or a JSON log of another tool."""
    suite: str = "default"
    """Which measures: a name of `expunge list suites`, or `package.module:function`."""
    metrics: tuple[str, ...] | None = None
    """Measures of the suite, as `a,b`; null: all. One that is named here must be had."""
    reference: str | None = None
    """Retain model (never trained on the forget set): its records, or its folder, where records are then made."""
    start: str | None = None
    """Start model (before unlearning), likewise."""
    output: str | None = None
    """Folder for records and results; null: `records` in the folder of a model that was made here."""
    label: str | None = None
    """What the model is called in tables; null: the name of its folder."""
    batch_size: int | None = None
    """Rows computed at once; null: as many as fit."""
    export: Literal["open-unlearning"] | None = None
    """Write the records as another program's log too, into the output folder: `open-unlearning`."""
    explain: str | None = None
    """Say what a metric means, with its source, and stop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size is not None:
            require_at_least("batch_size", self.batch_size, 1)
        if self.explain is not None:
            return
        if (self.model is None) == (self.records is None):
            got = "neither" if self.model is None else "both"
            raise ExpungeError(f"evaluate takes a model (model=) or records of one (records=); got {got}.")
        if self.export is not None and self.records is not None and self.output is None:
            raise ExpungeError(f"export={self.export} writes files, so name their folder: output=<folder>")
        about_data = [f.name for f in fields(DataConfig) if getattr(self, f.name) != getattr(DataConfig(), f.name)]
        if self.records is not None and about_data:
            raise ExpungeError(
                f"{about_data[0]} goes with a model; records were made on data of their own. Leave it out."
            )


def evaluate(call: Call[EvaluateConfig]) -> int:
    """Measure what a model still knows of the forget set and what it kept of the rest."""
    config = call.config
    if config.explain is not None:
        explain(config.explain, config.suite)
        return 0
    if call.dry_run:
        return dry_run(call)
    from expunge.evaluation.evaluate import evaluate as stage

    if config.records is not None:
        result = stage(
            records=config.records,
            suite=config.suite,
            metrics=config.metrics,
            reference=config.reference,
            start=config.start,
            output_dir=config.output,
            overwrite=call.overwrite,
            label=config.label,
        )
        show(result)
        _export(call, config.records, config.output, config.reference)
        return 0
    output = output_folder(config)
    corpus = corpus_of(config, call.resolved.more)
    with shown() as report:
        others: dict[str, Any] = {
            role: _records_of(role, source, config, corpus, report)
            for role, source in (("reference", config.reference), ("start", config.start))
            if source is not None
        }
        assert config.model is not None
        model, tokenizer = load(config.model, config)
        result = stage(
            model,
            tokenizer,
            corpus,
            suite=config.suite,
            metrics=config.metrics,
            **others,
            output_dir=output,
            overwrite=call.overwrite,
            label=config.label or Path(config.model).name,
            **_how(config, report),
        )
    show(result)
    say(f"\nrecords and results: {output}")
    _export(call, output, output, others.get("reference"))
    return 0


def _export(
    call: Call[EvaluateConfig], records: "str | Path", output: "str | Path | None", reference: str | None
) -> None:
    if call.config.export is None:
        return
    from expunge.evaluation.export import export

    assert output is not None
    written = export(records, output, form=call.config.export, reference=reference, overwrite=call.overwrite)
    say(f"{call.config.export}: {', '.join(map(str, written))}")


def _how(config: EvaluateConfig, report: Progress) -> dict[str, Any]:
    return {
        "template": template_of(config),
        "max_length": config.max_length,
        "batch_size": config.batch_size,
        "progress": report,
    }


def _records_of(role: str, source: str, config: EvaluateConfig, corpus: "Corpus", report: Progress) -> str:
    """A path to the records of another model, made now where only the model is there.

    They go beside a model that was made here, as `evaluate model=...` would put them there, and to the cache, by
    content, otherwise: nothing is written into folders of others.
    """
    if not lacks_records(source):
        return source
    from expunge.core.cache import cache_path
    from expunge.core.manifest import fingerprint, jsonable
    from expunge.evaluation.evaluate import evaluate as stage
    from expunge.evaluation.evaluate import measurable
    from expunge.models.fingerprint import model_fingerprint, tokenizer_fingerprint

    model, tokenizer = load(source, config)
    metrics = measurable(corpus, suite=config.suite, metrics=config.metrics)
    if metrics is None and made_here(source):
        folder = Path(source) / "records"
        say(f"{role}: no records of {source} yet; making them in {folder}")
    else:
        content = {
            "model": model_fingerprint(model),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "corpus": corpus.fingerprints(),
            "suite": config.suite,
            "metrics": metrics,
            "template": asdict(template_of(config)),
            "max_length": config.max_length,
        }
        folder = cache_path("evaluations", fingerprint(jsonable(content)))
        say(f"{role}: no records beside {source}; they are kept in the cache, {folder}")
    stage(
        model,
        tokenizer,
        corpus,
        suite=config.suite,
        metrics=metrics,
        output_dir=folder,
        **_how(config, report),
    )
    return str(folder)


def show(result: Evaluation) -> None:
    """Print every measure with its interval, direction, number of examples and reading."""
    from expunge.results.measures import measures_table

    heading(f"{result.label}, suite {result.suite}")
    header, rows, numeric, notes = measures_table(result)
    table(header, rows, numeric=numeric)
    for note in notes:
        say(note)


VERB = Verb(
    name="evaluate",
    config=EvaluateConfig,
    run=evaluate,
    more=source_settings,
    flags=("dry_run", "overwrite"),
    note="Example: expunge evaluate model=runs/npo forget=forget.jsonl retain=retain.jsonl reference=runs/retain\n\n"
    "Records of the same content that lie in the output folder are used again instead of the model.",
)
