"""Record: a finished run and what was measured of it in; `erasure.json` in its folder out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date as Date
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from expunge.core.checks import ExpungeError, path_of, require, require_type
from expunge.core.lock import locked
from expunge.core.manifest import FILE as MANIFEST
from expunge.core.manifest import Manifest, file_digest
from expunge.core.output import check_output_file
from expunge.core.places import without_places
from expunge.core.surface import assigned
from expunge.core.whole import write_whole
from expunge.data.corpus import Corpus, check_corpus, load_corpus
from expunge.models.cached import may_be_place
from expunge.record.earlier import before_it, earlier_requests
from expunge.record.ledger import ledger, predecessor_of, summary
from expunge.record.measured import Read, check_measured, read_attacked, read_evaluation
from expunge.record.policy import Policy, load_policy
from expunge.record.predicate import Evidence, predicate
from expunge.record.scope import salt_at, scope
from expunge.record.signing import Signer
from expunge.record.statement import ENVELOPE, FILE, Statement, read_statement, statement, text_of
from expunge.results.attacked import Attacked
from expunge.results.measures import Evaluation
from expunge.results.places import HANDED_ON, evaluation_file, finished_run


@dataclass(frozen=True)
class ErasureRecord:
    """A record that was written."""

    folder: Path
    """The run folder that holds it."""
    statement: Statement
    salt: Path
    """The file with the salt, which stays with the controller."""
    notes: tuple[str, ...] = ()
    """What was found beside the run and not taken, and why; not part of the record."""

    @property
    def predicate(self) -> Mapping[str, Any]:
        """All that it says of the files; docs/record.md names the fields."""
        return self.statement.predicate

    @property
    def verdict(self) -> str:
        """`ERASED (against what was tried)`, `RESIDUAL` or `NO BASELINE`."""
        return str(self.predicate["verdict"]["text"])

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the verdict is no better one."""
        return tuple(self.predicate["verdict"]["reasons"])


def record(
    run: str | Path,
    *,
    request: str,
    received: str | None = None,
    ground: str | None = None,
    date: str | None = None,
    corpus: Corpus | None = None,
    evaluation: Evaluation | str | Path | None = None,
    start: Evaluation | str | Path | None = None,
    attacked: Attacked | str | Path | None = None,
    policy: Policy | str | Path = "default",
    release: str | None = None,
    derivatives: Sequence[str | Path] = (),
    predecessor: str | Path | None = None,
    salt: str | Path | None = None,
    key: str | Path | None = None,
    overwrite: bool = False,
) -> ErasureRecord:
    """Write `erasure.json` into a run folder: what was erased, what was tried against it, and a verdict under a policy.

    Args:
        run: folder of a finished run.
        request: the name of the request in the controller's files, such as `REQ-17`; no personal data.
        received: the day on which the request came in, as 2026-01-20.
        ground: the legal ground of the request.
        date: of the record, as 2026-01-31; None: today.
        corpus: holds the forget rows; None: they are read again from where the run read them.
        evaluation: of the resulting model, or where it is; None: the one next to the run folder, where there is one.
        start: evaluation of the start model, or where it is; None: the one that the result's evaluation was compared
            with, else the one next to that model, where it is of its weights and of the same forget set.
        attacked: what `attack` gave for the resulting model, or where it is; None: the one next to the run folder
            (`<run>-attacked`), where there is one.
        policy: what the verdict asks for: `default`, or a YAML file.
        release: who gets the model, and with what access.
        derivatives: files or folders of models made from the result, such as quantized ones.
        predecessor: run folder with the record that this one follows; None: that of the start model, where it has one.
        salt: file with the salt of the hashes, made where it is missing; None: `<run>.salt`, next to the run folder.
        key: private ed25519 key in PEM; None: the record is not signed.
        overwrite: replace an earlier record of the run.

    Raises:
        ExpungeError: the run is not finished, its files were changed, something was measured of other weights or rows,
            a policy is wrong, or a record is there.
    """
    require_type("request", request, str, "text")
    require(bool(request.strip()), "request must name the request, such as REQ-17; it is empty.")
    folder, chosen, day = path_of("run", run), load_policy(policy), _day(date, "date")
    manifest = finished_run(folder)
    for name in (FILE, ENVELOPE):
        check_output_file(folder / name, overwrite=overwrite)
    _check_followers(folder)
    signer = Signer(path_of("key", key)) if key is not None else None
    rows = _rows(manifest, corpus)
    forget = rows.fingerprint("forget")
    after, found = read_evaluation(evaluation, folder), read_attacked(attacked, folder)
    began = manifest.results.get("start_model")
    looked_at = [*_compared_with(after.result, "start"), *([Path(began)] if began else [])]
    notes: list[str] = []
    model = manifest.inputs.get("model")
    before = read_evaluation(start) if start is not None else _found("start", looked_at, model, forget, notes)
    never = (after.result.about.get("reference") or {}).get("model") if after.result is not None else None
    retrained = _found("retain", _compared_with(after.result, "reference"), never, forget, notes)
    compared = check_measured(folder, manifest, forget, after, before, found)
    followed = _predecessor(folder, manifest, predecessor)
    derived = _derived(derivatives)
    salted = path_of("salt", salt) if salt is not None else folder.resolve().with_name(f"{folder.resolve().name}.salt")
    handed_on, attacks = _handed_on(manifest, found.result)
    with locked(folder):
        evidence = Evidence(
            request=request,
            date=day,
            received=None if received is None else _day(received, "received").isoformat(),
            ground=ground,
            release=release,
            run=handed_on,
            policy=chosen,
            scope=scope(rows["forget"], salt_at(salted, folder)),
            evaluation=after.result,
            start=before.result,
            retrained=retrained.result,
            attacked=attacks,
            weights_compared=compared,
            sources={"evaluation": after.digest, "start": before.digest, "attacked": found.digest},
            start_files=_files_of(manifest.results.get("start_model")),
            derivatives=derived,
            predecessor=None if followed is None else summary(*followed),
            earlier=earlier_requests(None if followed is None else followed[1], rows["forget"]),
            signer=signer.public if signer is not None else None,
        )
        files = {**manifest.results["files"], MANIFEST: file_digest(folder / MANIFEST)}
        text = text_of(statement(files, predicate(evidence)))
        (folder / ENVELOPE).unlink(missing_ok=True)  # first, so that a kill leaves no signature of another record
        write_whole(folder / FILE, text)
        if signer is not None:
            write_whole(folder / ENVELOPE, signer.envelope(text.encode()))
    return ErasureRecord(folder, read_statement(folder), salted, tuple(notes))


def _rows(manifest: Manifest, corpus: Corpus | None) -> Corpus:
    """The forget rows: those that were handed in, else read again; they must be those of the run."""
    if corpus is None:
        origin = dict(manifest.results.get("corpus") or {})
        if not origin or "forget" not in manifest.results.get("data", {}):
            raise ExpungeError(
                f"the run does not say where its forget set is: name it, {assigned(forget='forget.jsonl')}."
            )
        corpus = load_corpus(**{**origin, "reads": ("forget",) if origin["source"] == "files" else None})
    check_corpus(corpus)
    known = manifest.results.get("data", {}).get("forget", {}).get("content")
    if known is not None and corpus.fingerprint("forget") != known:
        raise ExpungeError("the forget set is not the one that the run was to forget: its rows are others.")
    return corpus


def _compared_with(after: Evaluation | None, role: str) -> list[Path]:
    """Where the records were that an evaluation was compared with."""
    told = after.about.get("paths", {}).get(role) if after is not None else None
    return [Path(told)] if told else []


def _found(who: str, folders: Sequence[Path], weights: str | None, forget: str, notes: list[str]) -> Read[Evaluation]:
    """The first evaluation in or next to these folders that is of these weights and this forget set.

    Where none is, the notes say why those that are there were not taken.
    """
    others = []
    for folder in folders:
        file = evaluation_file(folder)
        if file is not None:
            found = Evaluation.load(file)
            inputs = found.about.get("inputs", {})
            if weights is not None and (inputs.get("model"), inputs.get("data.forget")) == (weights, forget):
                return Read(found, file)
            other = "of another forget set" if inputs.get("model") == weights else f"not of the {who} model's weights"
            others.append(f"{file} was not taken: it is {other}.")
    notes += dict.fromkeys(others)
    return Read()


def _files_of(model: str | None) -> dict[str, str] | None:
    """SHA-256 of each file of a model, in its folder or in the hub's cache; None where it is not here."""
    if not model:
        return None
    folder = Path(model)
    if not folder.is_dir():
        try:
            cached = try_to_load_from_cache(model, "config.json")
        except ValueError:
            return None  # no name of a model on the hub: a folder that was
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    return {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.is_file()}


def _predecessor(run: Path, manifest: Manifest, named: str | Path | None) -> tuple[Statement, Path] | None:
    """The record that this one follows, about the model that the run began with, and its run folder."""
    if (folder := path_of("predecessor", named) if named is not None else before_it(run)) is None:
        return None
    before = read_statement(folder)
    if before.fault:
        raise ExpungeError(f"the record of the predecessor in {folder} was changed: {before.fault}.")
    result = before.predicate["lineage"]["result"]
    model = result.get("model") if isinstance(result, Mapping) else None
    if model != manifest.inputs.get("model") and "start_adapter" not in manifest.inputs:
        raise ExpungeError(
            f"the record in {folder} is about another model than the one that this run began with, so it is not its "
            "predecessor."
        )
    return before, folder


def _check_followers(folder: Path) -> None:
    """Raise where a record beside the run holds the digest of the one that would be replaced."""
    if not (folder / FILE).is_file():
        return
    digest = read_statement(folder).digest
    after = [
        entry for entry in ledger(folder.resolve().parent, below=False) if _follows(entry.statement, folder, digest)
    ]
    if after:
        requests = ", ".join(f"{one.statement.predicate['request']['id']} ({one.folder.name})" for one in after)
        raise ExpungeError(
            f"the record in {folder} is the one before that of {requests}, which names it by its digest: replacing it "
            f"would break the chain. Move the later {FILE} away, write this record, and then the later one again."
        )


def _follows(later: Statement, folder: Path, digest: str) -> bool:
    """Does a record name that of this run folder as the one before it, as it is or as it was?"""
    if (before := predecessor_of(later)) is None:
        return False
    made = Manifest.load(folder).results.get("result", {}).get("model")
    same = before["run"] == folder.resolve().name and later.predicate["start_model"]["fingerprint"] == made
    return bool(before["digest"] == digest or same)


def _derived(derivatives: Sequence[str | Path]) -> dict[str, str]:
    """SHA-256 of derived models, by their names; of a folder with weights that of each of their files."""
    found: dict[str, str] = {}
    for one in derivatives:
        path = path_of("a derivative", one)
        if not path.exists():
            raise ExpungeError(f"no derived model at '{path}'.")
        name = path.resolve().name
        if any(known == name or known.startswith(f"{name}/") for known in found):
            raise ExpungeError(
                f"derivatives names two that are called {name}, and a record holds no folders: rename one."
            )
        weights = sorted(file for file in path.rglob("*") if file.name.endswith(HANDED_ON))
        found |= {f"{name}/{file.relative_to(path).as_posix()}": file_digest(file) for file in weights}
        found |= {} if weights else {name: file_digest(path)}
    return found


def _handed_on(manifest: Manifest, attacked: Attacked | None) -> tuple[Manifest, Attacked | None]:
    """Run and attacks with the names alone of files and folders: a record is handed on."""
    results = {**manifest.results, "start_model": without_places(manifest.results.get("start_model"), may_be_place)}
    told = replace(manifest, arguments=without_places(manifest.arguments, may_be_place), results=results)
    if attacked is None:
        return told, None
    return told, replace(attacked, settings=without_places(dict(attacked.settings), may_be_place))


def _day(text: str | None, what: str) -> Date:
    if text is None:
        return Date.today()
    try:
        return Date.fromisoformat(text)
    except (TypeError, ValueError):
        raise ExpungeError(f"{what} must be a day, such as 2026-01-31; got {text!r}.") from None
