"""`expunge evaluate`."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expunge.cli import preview
from expunge.cli.console import complain, heading, say, table
from expunge.cli.explain import explain
from expunge.cli.inputs import ShardingConfig, corpus_of, load, source_settings, template_of, tokenizer_of
from expunge.cli.verb import Call, Verb
from expunge.core import catalogue
from expunge.core.checks import ExpungeError, require_at_least
from expunge.core.lock import check_free
from expunge.core.manifest import FILE as MANIFEST
from expunge.core.progress import Progress, first_process
from expunge.core.progress import shown as progress_shown
from expunge.core.surface import words
from expunge.data.data_config import DataConfig
from expunge.results.measures import Evaluation
from expunge.results.places import check_measured, evaluation_file, places, records_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.core.batch import Encoded
    from expunge.data.corpus import Corpus
    from expunge.evaluation.suite import Other, Suite
    from expunge.results.records import Records


MODEL_FILES = ("config.json", "adapter_config.json")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ShardingConfig, DataConfig):
    """What is measured, and against what."""

    model: str | None = None
    """Model to evaluate: a folder (a run folder too) or a hub id."""
    records: str | None = None
    """Records to measure again instead of a model: a folder of them, a run folder, or a JSON log of another tool."""
    suite: str = "default"
    """Which measures: a name of `expunge list suites`, or `package.module:function`."""
    metrics: tuple[str, ...] | None = None
    """Measures of the suite, as `a,b`; null: all. One that is named here must be available. Any metric on one set runs
    by its name, too: `repetition` (on the forget set), `retain.repetition`, `package.module:function`."""
    reference: str | None = None
    """Retain model (never trained on the forget set): its records, or its folder, where records are then made."""
    start: str | None = None
    """Start model (before unlearning), likewise."""
    output: str | None = None
    """Folder for records and results; null: `<model>-records`, next to the folder of a model that was made here."""
    texts: Literal["keep", "hash", "drop"] = "keep"
    """What the output folder holds of questions, answers and generations: the texts, their SHA-256, or nothing."""
    label: str | None = None
    """What the model is called in tables; null: the name of its folder."""
    batch_size: int | None = None
    """Rows computed at once; null: as many as fit."""
    judges: dict[str, str] = field(default_factory=dict)
    """Models that some measures ask, folders or hub ids: `judges.embedding=<folder>` (sentence embeddings, for WAGLE's
    UE and UT), `judges.gibberish=<folder>` (for fluency). Without it those of the papers, where they are downloaded."""
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
    from expunge.evaluation.judges import asking

    with asking(config.judges):
        return dry_run(call) if call.dry_run else _measure(call)


def _measure(call: Call[EvaluateConfig]) -> int:
    from expunge.evaluation.evaluate import evaluate as stage
    from expunge.evaluation.export import check_log

    config = call.config

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
            texts=config.texts,
        )
        show(result)
        if config.output is not None:
            _go_on(Path(config.output), start=config.start, retain=config.reference)
        _export(call, config.records, config.output, config.reference)
        return 0
    output = output_folder(config)
    _note_texts(config, output)
    check_measured(output)
    corpus = corpus_of(config, call.resolved.extra, reads=_read_sets(config))
    with progress_shown() as report:
        others: dict[str, Any] = {
            role: _records_of(role, source, config, corpus, report)
            for role, source in (("reference", config.reference), ("start", config.start))
            if source is not None
        }
        assert config.model is not None
        model, tokenizer = load(config.model, config)
        log = check_log(output, overwrite=call.overwrite) if config.export is not None else ()
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
            texts=config.texts,
            replaces=log,
            **_how(config, report),
        )
    show(result)
    say(f"\nrecords and results: {output}")
    _go_on(output, start=others.get("start"), retain=others.get("reference"))
    _export(call, output, output, others.get("reference"))
    return 0


def _go_on(output: Path, **others: str | None) -> None:
    """Say how a model that was compared with others is reported beside them."""
    beside = {role: path for role, path in others.items() if path is not None and evaluation_file(Path(path))}
    if beside:
        say(f"next: expunge report {shlex.quote(str(output))} {words(beside)}")


def _read_sets(config: EvaluateConfig) -> "set[str] | None":
    """The sets that the measures named read; None: all, for all measures, and for other models to be measured too.

    Files alone are told: the sets of another source have names of its own.
    """
    compared = config.reference is not None or config.start is not None
    if config.metrics is None or compared or config.source != "files":
        return None
    from expunge.evaluation.suite import Suite

    named = [name for name in ("forget", "retain", "holdout", *config.sets) if getattr(config, name, name) is not None]
    suite: Suite = catalogue.resolve("suites", config.suite)(named)
    return suite.select(config.metrics).splits


def _export(
    call: Call[EvaluateConfig], records: "str | Path", output: "str | Path | None", reference: str | None
) -> None:
    if call.config.export is None or not first_process():
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

    They go next to a model that was made here, as `evaluate model=...` would put them there, and to the cache, by
    content, otherwise: nothing is written into folders of others.
    """
    if not lacks_records(source):
        return source
    from expunge.core.cache import cache_path
    from expunge.core.manifest import fingerprint, jsonable
    from expunge.data.template import dated
    from expunge.evaluation.evaluate import evaluate as stage
    from expunge.evaluation.evaluate import measurable
    from expunge.models.fingerprint import model_fingerprint, tokenizer_fingerprint

    model, tokenizer = load(source, config)
    metrics = measurable(corpus, suite=config.suite, metrics=config.metrics)
    if metrics is None and made_here(source):
        folder = records_folder(source)
        say(f"{role}: no records of {source} yet; making them in {folder}")
    else:
        content = {
            "model": model_fingerprint(model),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "corpus": corpus.fingerprints(),
            "suite": config.suite,
            "metrics": metrics,
            "template": dated(template_of(config), tokenizer).about,
            "max_length": config.max_length,
        }
        folder = cache_path("evaluations", fingerprint(jsonable(content)))
        say(f"{role}: no records next to {source}; they are kept in the cache, {folder}")
    stage(
        model,
        tokenizer,
        corpus,
        suite=config.suite,
        metrics=metrics,
        output_dir=folder,
        overwrite=True,  # whatever is there under the name of this content and is not it is damaged
        **_how(config, report),
    )
    return str(folder)


def output_folder(config: EvaluateConfig) -> Path:
    """Where records go: the folder that was named, else next to the folder of a model that was made here."""
    if config.output is not None:
        return Path(config.output)
    if config.model is not None and made_here(config.model):
        return records_folder(config.model)
    if config.model is not None:
        from expunge.models.load import check_model_folder

        check_model_folder(config.model)
    raise ExpungeError(
        f"output is missing: there is no run of expunge at '{config.model}', so say where its records go, such as "
        "output=runs/start-records"
    )


def _note_texts(config: EvaluateConfig, output: Path) -> None:
    """Say where a folder that may be handed on would come to hold the data."""
    above = (output, *output.resolve().parents)
    model = next((folder for folder in above if any((folder / file).is_file() for file in MODEL_FILES)), None)
    if config.texts == "keep" and model is not None:
        say(
            f"note: the records hold texts of the data and go into the model folder {model}. If you hand it on, save "
            "them elsewhere, or without texts: texts=drop"
        )


def made_here(source: str) -> bool:
    """Is it the folder of a run of ours, or of the adapter in one?"""
    return any((Path(source) / file).is_file() for file in (MANIFEST, "adapter.json"))


def lacks_records(source: str) -> bool:
    """Is this the folder of a model that has no records yet?"""
    from expunge.results.records import FILE

    folder = Path(source)
    held = any((place / FILE).is_file() for place in places(folder))
    return not held and any((folder / file).is_file() for file in MODEL_FILES)


def dry_run(call: Call[EvaluateConfig]) -> int:
    """Show what would be measured, on how many rows, and what is missing for it; the exit code."""
    from expunge.evaluation.evaluate import check_rescored
    from expunge.evaluation.evaluation_memory import evaluation_memory
    from expunge.models.load import bits_under, check_loading, check_tokenizer_fits
    from expunge.models.skeleton import skeleton
    from expunge.results.foreign_logs import load_records
    from expunge.results.records import Records

    config, problems = call.config, preview.Problems()
    output: str | None = config.output
    tokenizer: PreTrainedTokenizerBase | None = None
    model: PreTrainedModel | None = None
    source: Corpus | Records | None = None
    if config.records is not None:
        with problems.collected():
            source = load_records(config.records)
            if config.output is not None:
                check_measured(config.output)
                check_free(Path(config.output))
                check_rescored(source, Path(config.output), overwrite=call.overwrite)
    if config.model is not None:
        with problems.collected():
            output = str(output_folder(config))
            check_measured(output)
            check_free(Path(output))
            _note_texts(config, Path(output))
        with problems.collected():
            tokenizer = tokenizer_of(config.model, config)
        with problems.collected():
            source = corpus_of(config, call.resolved.extra, reads=_read_sets(config))
        with problems.collected():
            model = skeleton(config.model, trust_remote_code=config.trust_remote_code)
            if tokenizer is not None:
                check_tokenizer_fits(model, tokenizer)
        with problems.collected():
            check_loading(config.model, device=config.device, bits=config.bits, sharded=config.sharded)
    others = _others(config, source, problems)
    preview.show_settings(call.resolved, {"output": (output, "next to the model")})
    if source is None or others is None:
        return problems.concluded()
    with problems.collected():
        suite = _show_measures(config, source, others, problems)
        if model is None or tokenizer is None or suite is None or isinstance(source, Records):
            return problems.concluded()
        encoded = _show_rows(suite, config, source, others, tokenizer, model)
        with problems.collected():
            _check_records(call, suite, source, others, Path(str(output)))
        preview.show_memory(evaluation_memory(model, config.dtype, config.bits or bits_under(str(config.model))))
        preview.show_example(encoded, tokenizer, "First row")
    return problems.concluded()


def _others(
    config: EvaluateConfig, source: "Corpus | Records | None", problems: preview.Problems
) -> "dict[str, Other] | None":
    """Records of the other models; the corpus for those whose records the run would make; None where one is refused."""
    from expunge.models.load import check_model_folder
    from expunge.results.foreign_logs import load_records

    found: dict[str, Other] = {"reference": None, "start": None}
    for role in found:
        path = getattr(config, role)
        if path is None:
            continue
        with problems.collected():
            if config.model is not None and lacks_records(path):
                check_model_folder(path)
                found[role] = source
            else:
                found[role] = load_records(path)
    refused = [role for role, other in found.items() if other is None and getattr(config, role) is not None]
    return None if refused else found


def _show_measures(
    config: EvaluateConfig, source: "Corpus | Records", others: "Mapping[str, Other]", problems: preview.Problems
) -> "Suite | None":
    """Print which measures are available; the suite, where the run would begin."""
    from expunge.evaluation.evaluate import planned
    from expunge.evaluation.suite import available, missing, without_substitutes
    from expunge.results.records import Records

    splits = source.splits if isinstance(source, Records) else list(source)
    suite: Suite = catalogue.resolve("suites", config.suite)(splits).select(config.metrics)
    if not isinstance(source, Records):
        suite = without_substitutes(suite, source)
    absent, computed = missing(suite, source, **others), available(suite, source, **others)
    lines = []
    for name in suite.names:
        made = name in computed and computed[name].derived_by
        there = f"available{', made by rule' if made else ''}"
        lines.append((name, absent[name][:1].lower() + absent[name][1:] if name in absent else there))
    heading("Measures")
    table(("measure", "with these data"), lines)
    with problems.collected():
        return planned(source, suite=config.suite, metrics=config.metrics, **others)
    return None


def _check_records(
    call: Call[EvaluateConfig], suite: "Suite", corpus: "Corpus", others: "Mapping[str, Other]", output: Path
) -> None:
    """Raise where the run would refuse the records in the output folder; only then are weights read, to compare."""
    from expunge.data.template import dated
    from expunge.evaluation.collect import identity
    from expunge.evaluation.evaluate import date_of, reusable, there
    from expunge.evaluation.suite import probes
    from expunge.results.records import FILE, Records

    config = call.config
    if call.overwrite or not (output / FILE).exists():
        return
    assert config.model is not None
    model, tokenizer = load(config.model, config)
    wanted, _ = probes(suite, corpus, **others)
    like = [other for other in others.values() if isinstance(other, Records)]
    template = dated(template_of(config), tokenizer, like=date_of(there(output), *like))
    longest = config.max_length
    made = identity(model, tokenizer, corpus, wanted, template=template, max_length=longest)
    reusable(output, made, texts=config.texts)


def _show_rows(
    suite: "Suite",
    config: EvaluateConfig,
    corpus: "Corpus",
    others: "Mapping[str, Other]",
    tokenizer: "PreTrainedTokenizerBase",
    model: "PreTrainedModel",
) -> "Encoded":
    """Print how many rows of each kind the model would be shown; the first one."""
    from expunge.evaluation.shown import shown
    from expunge.evaluation.suite import probes

    wanted, _ = probes(suite, corpus, **others)
    found = shown(wanted, corpus, tokenizer, model, template=template_of(config), max_length=config.max_length)
    preview.show_shown(found)
    return found[0].first


def show(result: Evaluation) -> None:
    """Print every measure with its interval, direction, number of examples and reading."""
    from expunge.results.measures import measures_table

    heading(f"{result.label}, suite {result.suite}")
    header, rows, numeric, notes = measures_table(result)
    table(header, rows, numeric=numeric)
    for note in notes:
        say(note)
    _note_other_rows(result)


def _note_other_rows(result: Evaluation) -> None:
    """Say where records of another model are of other rows, with which nothing can be compared."""
    own = result.about.get("inputs", {}).get("data.forget")
    for role in ("start", "reference"):
        theirs = result.about.get(role, {}).get("data.forget")
        if None not in (own, theirs) and own != theirs:
            complain(
                f"warning: the records of {role}={result.about.get('paths', {}).get(role, '<records>')} are of another "
                "forget set, so nothing there is compared with them. Evaluate that model on these data, and name its "
                "records."
            )


VERB = Verb(
    name="evaluate",
    replaces_output=False,
    config=EvaluateConfig,
    run=evaluate,
    extra_settings=source_settings,
    shared=True,
    flags=("dry_run", "overwrite"),
    note="Example: expunge evaluate model=runs/npo forget=forget.jsonl retain=retain.jsonl reference=runs/retain\n\n"
    "Records of the same content in the output folder are used instead of the model.",
)
