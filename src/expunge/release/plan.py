"""Plan of an export: what is handed on, from which files, where to; checked before a weight is read."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.comparison.run_folders import RunFolder, corpus_of
from expunge.core.checks import ExpungeError, path_of, require, require_at_least, unknown
from expunge.core.manifest import FILE as MANIFEST
from expunge.core.manifest import Manifest
from expunge.core.output import check_output
from expunge.core.surface import assigned
from expunge.data.corpus import Corpus, check_corpus
from expunge.data.template import Template
from expunge.models.load import adapter_base, holds_adapter_alone, load_tokenizer
from expunge.models.skeleton import skeleton
from expunge.models.weight_files import headers, weight_files
from expunge.record.measured import check_measured, read_attacked, read_evaluation
from expunge.record.statement import FILE as RECORD
from expunge.record.statement import read_statement
from expunge.release.contents import (
    CONFIGURATION,
    FORMS,
    TOKENIZER,
    base_of,
    files_of,
    names_places,
    record_of,
)
from expunge.release.gguf_file import STORED, Kind, check_gguf, check_writable, write_vocabulary
from expunge.release.hub import Destination, Found, check_hub
from expunge.release.license import license_of
from expunge.release.parity import SETS, Rows, check_tokens, rows_of
from expunge.report.card import Form
from expunge.results.attacked import Attacked
from expunge.results.measures import Evaluation
from expunge.results.places import CARD, RELEASE, finished_run

ROWS = 256
"""Rows of each set that are compared by default."""
NAMES = (CARD, "*.safetensors", "*.safetensors.index.json", "*.gguf", *CONFIGURATION, *TOKENIZER, "adapter*.json")
CHECKS = ("logprobs", "none")
_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}
"""Of a weight."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was measured of the run, for its card."""

    evaluation: Evaluation | None
    start: Evaluation | None
    retain: Evaluation | None
    attacked: Attacked | None
    record: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an export will do, checked before a weight is read."""

    run: Path
    manifest: Manifest
    form: Form
    name: str
    kind: Kind | None
    """Type of a GGUF file's matrices; None for other forms."""
    taken: Mapping[str, Path]
    """Files that are taken as they are, but for the folders that they name."""
    made: Mapping[str, int | None]
    """Files that are made, with about how many bytes."""
    base_model: str | None
    license: str | None
    evidence: Evidence
    rows: Mapping[str, Rows]
    """By set, the rows that a GGUF file is compared on; empty: it is not compared."""
    output: Path | None
    destination: Destination | None
    found: Found | None
    """What is in the destination."""
    notes: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int | None]:
        """Bytes of every file of the release; None where that is not known before."""
        return {name: path.stat().st_size for name, path in self.taken.items()} | dict(self.made)


def plan_export(
    run: str | Path,
    *,
    output: str | Path | None = None,
    form: str = "merged",
    dtype: str = "auto",
    check: str = "logprobs",
    rows: int | None = ROWS,
    corpus: Corpus | None = None,
    evaluation: Evaluation | str | Path | None = None,
    start: Evaluation | str | Path | None = None,
    reference: Evaluation | str | Path | None = None,
    attacked: Attacked | str | Path | None = None,
    name: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    repo: str | None = None,
    private: bool = True,
    revision: str | None = None,
    overwrite: bool = False,
) -> Plan:
    """What `export` will do with the same arguments; it raises what that raises before it reads a weight."""
    if form not in FORMS:
        raise unknown("form of a release", form, FORMS)
    if check not in CHECKS:
        raise unknown("check of a release", check, CHECKS)
    require(output is not None or repo is not None, f"name the folder of the release: {assigned(output='release')}")
    if rows is not None:
        require_at_least("rows", rows, 1)
    folder = path_of("run", run)
    target = path_of("output", output) if output is not None else None
    manifest = finished_run(folder)
    if manifest.stage != "unlearn":
        raise ExpungeError(
            f"{folder} is a run of {manifest.stage}, and what unlearn made is exported. Name such a run."
        )
    taken, notes = files_of(folder, form) | record_of(folder), list[str]()
    if target is not None:
        check_output(target, overwrite=overwrite, names=NAMES, stages=(RELEASE,))
    if RECORD in taken and names_places(taken[RECORD]):
        taken = {kept: path for kept, path in taken.items() if kept not in record_of(folder)}
        notes.append(
            f"{RECORD} was left out: it names folders of the machine where the run was made. Hand it on apart, or run "
            "again in the folder of the data, with relative paths."
        )
    kind = _kind(folder, manifest, form, dtype)
    called = name or folder.resolve().name
    require("/" not in called and "\\" not in called, f"name is that of a model, without folders; got {called!r}.")
    destination = Destination(repo=repo, private=private, revision=revision) if repo is not None else None
    return Plan(
        run=folder,
        manifest=manifest,
        form=form,
        name=called,
        kind=kind,
        taken=taken,
        made=_made(folder, form, kind, called, taken),
        base_model=base_of(folder, manifest, form, base_model),
        license=license or license_of(str(manifest.results.get("start_model") or "")),
        evidence=_evidence(folder, evaluation, start, reference, attacked, manifest),
        rows=_rows(folder, manifest, corpus, rows) if kind is not None and check == "logprobs" else {},
        output=target,
        destination=destination,
        found=check_hub(destination, overwrite=overwrite) if destination is not None else None,
        notes=(*notes, *(("The GGUF file was not compared with the model.",) if kind and check == "none" else ())),
    )


def _kind(run: Path, manifest: Manifest, form: Form, dtype: str) -> Kind | None:
    """The type of a GGUF file's matrices, once it is sure that the model can be written so."""
    if form != "gguf":
        require(dtype == "auto", f"dtype is the type of a GGUF file, and the form is {form}: leave it out.")
        return None
    stored = str(manifest.results.get("result", {}).get("dtype"))
    if dtype == "auto" and stored not in STORED:
        raise ExpungeError(
            f"weights of type {stored} have no GGUF type of their own: name one, {assigned(dtype='f16')}"
        )
    kind: Any = STORED[stored] if dtype == "auto" else dtype
    check_gguf(kind)
    check_writable(skeleton(run), load_tokenizer(run))
    return kind  # type: ignore[no-any-return]


def _made(run: Path, form: Form, kind: Kind | None, name: str, taken: Mapping[str, Path]) -> dict[str, int | None]:
    """The files that are made, with about how many bytes, where that is known before."""
    found: dict[str, int | None] = {CARD: None, MANIFEST: None}
    if form == "adapter" or any(path.endswith(".safetensors") for path in taken):
        return found
    source = adapter_base(run) if holds_adapter_alone(run) else run
    tensors = headers(weight_files(source))
    if kind is not None:
        numbers = sum(tensor.numel() for tensor in tensors.values())
        return {gguf_name(name, kind): round(numbers * _BYTES[kind]) if tensors else None, **found}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return {"model.safetensors": size or None, "config.json": None, **found}


def gguf_name(name: str, kind: Kind) -> str:
    """What a GGUF file is called."""
    return f"{name}-{kind.upper()}.gguf"


def _evidence(
    run: Path,
    evaluation: Evaluation | str | Path | None,
    start: Evaluation | str | Path | None,
    reference: Evaluation | str | Path | None,
    attacked: Attacked | str | Path | None,
    manifest: Manifest,
) -> Evidence:
    """What was measured of the run, or of what it is compared with.

    Raises:
        ExpungeError: something was measured of another model.
    """
    after, before = read_evaluation(evaluation, run), read_evaluation(start)
    found = read_attacked(attacked, run)
    known = manifest.results.get("data", {}).get("forget", {}).get("content")
    check_measured(run, manifest, known, after, before, found)
    record = read_statement(run) if (run / RECORD).is_file() else None
    if record is not None and record.fault:
        raise ExpungeError(
            f"the erasure record in {run} was changed: {record.fault}. Make it again: expunge record ..."
        )
    return Evidence(
        evaluation=after.result,
        start=before.result,
        retain=read_evaluation(reference).result,
        attacked=found.result,
        record=record.predicate if record is not None else None,
    )


def _rows(run: Path, manifest: Manifest, corpus: Corpus | None, limit: int | None) -> Mapping[str, Rows]:
    """The rows on which a GGUF file is compared with the model, once it is sure that it gives them the same tokens."""
    corpus, tokenizer = _corpus(run, manifest, corpus), load_tokenizer(run)
    template = Template(**manifest.arguments.get("template", {}))  # as the run framed questions
    max_length = int(manifest.arguments.get("max_length", 512))
    found = rows_of(corpus, tokenizer, template=template, max_length=max_length, limit=limit)
    with tempfile.TemporaryDirectory() as passing:
        file = Path(passing) / "vocabulary.gguf"
        write_vocabulary(skeleton(run).config, tokenizer, file)
        check_tokens(file, tokenizer, corpus, found, template=template, max_length=max_length)
    return found


def _corpus(run: Path, manifest: Manifest, corpus: Corpus | None) -> Corpus:
    """The rows on which a GGUF file is compared with the model."""
    if corpus is None:
        try:
            corpus = corpus_of(RunFolder(run, manifest))
        except ExpungeError as error:
            raise ExpungeError(
                "a GGUF file is compared with the model on the forget and the retain set, and these are not at hand "
                f"({error}). Name them, {assigned(forget='forget.jsonl', retain='retain.jsonl')}, or leave the "
                f"comparison out: {assigned(check='none')}"
            ) from error
    check_corpus(corpus)
    lacking = [split for split in SETS if split not in corpus]
    if lacking:
        raise ExpungeError(
            f"a GGUF file is compared with the model on the forget and the retain set; missing: {', '.join(lacking)}. "
            f"Name it, or leave the comparison out: {assigned(check='none')}"
        )
    return corpus
