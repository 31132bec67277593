"""Verify: is a record as it was written, and are the files still those that it is about? Offline, without a model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from expunge.core.checks import ExpungeError, path_of
from expunge.core.format import counted
from expunge.core.manifest import FILE as MANIFEST
from expunge.core.manifest import Manifest, file_digest
from expunge.core.output import stage_of
from expunge.core.whole import is_left_over
from expunge.data.corpus import Corpus, check_corpus, places
from expunge.record.earlier import before_it
from expunge.record.ledger import ledger, predecessor_of
from expunge.record.scope import out_of_scope, read_salt, salt_digest
from expunge.record.signing import NoSigning, fault_of, public_key
from expunge.record.statement import ENVELOPE, FILE, FILES, Statement, read_statement
from expunge.results.places import CARD, HANDED_ON, IN_RUNS, RELEASE

REWRITTEN = (
    CARD,
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "adapter*.json",
    "model.safetensors.index.json",
)
"""Files that `export` writes itself, or without folders of the machine."""
Result = Literal["right", "wrong", "not checked"]


OWN_KEY = "by the key that the record itself names, which anyone could have put there: name one that you trust, key="


@dataclass(frozen=True)
class Check:
    """One thing that was checked."""

    what: str
    result: Result
    note: str = ""


@dataclass(frozen=True)
class Verification:
    """What was checked of a record and its files."""

    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Is nothing wrong? What could not be checked is not wrong."""
        return not self.wrong

    @property
    def wrong(self) -> tuple[Check, ...]:
        """What does not match."""
        return tuple(check for check in self.checks if check.result == "wrong")

    def __str__(self) -> str:
        """What is wrong, or that nothing is, in a line each."""
        if self.wrong:
            return "\n".join(f"{check.what}: {check.note}" for check in self.wrong)
        left = [check.what for check in self.checks if check.result == "not checked"]
        said = "Everything matches" + (f"; not checked: {', '.join(left)}." if left else ".")
        own = any(check.note == OWN_KEY for check in self.checks)
        return f"{said} The signature is {OWN_KEY}." if own else said


def verify(
    run: str | Path,
    *,
    key: str | Path | None = None,
    records: str | Path | None = None,
    salt: str | Path | None = None,
    corpus: Corpus | None = None,
) -> Verification:
    """Check the record in a run folder or a release: seal, signature, every file, chain, and scope where asked.

    Args:
        run: the run folder, or a release that `export` made, whose files are checked by its manifest.
        key: public ed25519 key in PEM of whom the record must be signed by; None: a signature is checked with the key
            that the record itself names, which says nothing about who made it.
        records: folder in which the earlier records of the model line must be; None: those beside the run folder are
            looked at, and where the predecessor is not there, the chain is not checked.
        salt: file with the salt that the record was made with, to check `corpus`.
        corpus: its `forget` rows are checked to be in the record's scope.

    Raises:
        ExpungeError: there is no record, or nothing that can be read as one; or the key, the salt or the rows are
            missing or something else.
    """
    folder = path_of("run", run)
    trusted = public_key(path_of("key", key)) if key is not None else None
    if (salt is None) != (corpus is None):
        raise ExpungeError("rows are checked with the salt: give both the salt and the forget rows, or neither.")
    found = read_statement(folder)
    checks = [Check(f"{FILE}: seal", "wrong" if found.fault else "right", found.fault)]
    try:
        checks += [_signature(folder, found, trusted), *_files(folder, found), _chain(folder, found, records)]
        if salt is not None and corpus is not None:
            check_corpus(corpus)
            checks.append(_scope(found, read_salt(path_of("salt", salt)), corpus))
    except (KeyError, TypeError, AttributeError) as error:
        raise ExpungeError(f"{folder / FILE} is damaged: its fields are others ({error!r}).") from error
    return Verification(tuple(checks))


def _signature(folder: Path, found: Statement, trusted: str | None) -> Check:
    signer, envelope, what = found.predicate["signer"], folder / ENVELOPE, "signature"
    if signer is None:
        if trusted is not None or envelope.exists():
            return Check(what, "wrong", "the record says that it is not signed")
        return Check(what, "not checked", "the record is not signed")
    if not envelope.is_file():
        return Check(what, "wrong", f"the record is signed, and {ENVELOPE} is missing")
    if trusted is not None and signer["public"] != trusted:
        return Check(what, "wrong", "the record is signed with another key than the one that was named")
    try:
        fault = fault_of(envelope.read_bytes().decode("utf-8", "replace"), found.written, signer)
    except NoSigning as error:
        if trusted is not None:
            raise
        return Check(what, "not checked", str(error))
    if fault:
        return Check(what, "wrong", fault)
    return Check(what, "right", "" if trusted else OWN_KEY)


def _files(folder: Path, found: Statement) -> Iterator[Check]:
    """The files of a run by its record, those of a release by its manifest."""
    if stage_of(folder) == RELEASE:
        yield from _released(folder, found)
        return
    yield from _unchanged(folder, found.files, "since the record was made")
    for name in sorted(_there(folder) - {*found.files, *FILES}):
        if any(fnmatchcase(name, f"{pattern}*" if pattern.endswith("/") else pattern) for pattern in IN_RUNS):
            yield Check(name, "not checked", "the record does not cover it")
        else:
            yield Check(name, "wrong", "not there when the record was made")


def _released(folder: Path, found: Statement) -> Iterator[Check]:
    """What `export` wrote by its manifest, which anyone can write anew; so the record must vouch for the weights."""
    digests: Mapping[str, str] = Manifest.load(folder).results["files"]
    yield from _unchanged(folder, {n: d for n, d in digests.items() if n not in FILES}, "since it was exported")
    for name in sorted(_there(folder) - {*digests, *FILES, MANIFEST}):
        yield Check(name, "wrong", "not there when it was exported")
    yield Check(MANIFEST, "not checked", "nothing says what it was")
    yield from _vouched(digests, found)


def _vouched(digests: Mapping[str, str], found: Statement) -> Iterator[Check]:
    """Are the files of a release those that the record is about, or models that it names as made from them?

    What `export` writes anew cannot be compared with the run's; any other file that the record does not know is wrong,
    as a program may take its weights or its code from there.
    """
    known = {*found.files.values(), *_derivatives(found).values()}
    for name, digest in sorted(digests.items()):
        what = f"{name} in the record"
        if name in FILES:
            continue
        if digest in known:
            yield Check(what, "right")
        elif any(fnmatchcase(name, pattern) for pattern in REWRITTEN):
            yield Check(what, "not checked", "export writes it anew: compare it with the run's")
        else:
            yield Check(what, "wrong", "the record is not about this file, and names no such model made from its own")
    if not any(name.endswith(HANDED_ON) for name in digests):
        yield Check("weights in the record", "wrong", "there is no file of weights")
    whole = any(name.endswith(".safetensors") for name in digests)
    for name in sorted(found.files):
        if whole and name.startswith(("tokenizer", "chat_template")) and name not in digests:
            yield Check(f"{name} in the record", "wrong", "missing")


def _derivatives(found: Statement) -> Mapping[str, str]:
    told = found.predicate["lineage"]["derivatives"]
    return told if isinstance(told, Mapping) else {}


def _unchanged(folder: Path, digests: Mapping[str, str], since: str) -> Iterator[Check]:
    for name, digest in sorted(digests.items()):
        path = folder / name
        if not path.is_file():
            yield Check(name, "wrong", "missing")
        elif file_digest(path) != digest:
            yield Check(name, "wrong", f"changed {since}")
        else:
            outside = not path.resolve().is_relative_to(folder.resolve())
            yield Check(name, "right", "a link to a file outside the folder" if outside else "")


def _there(folder: Path) -> set[str]:
    """Files in a folder and below it; a link to a folder counts as one, which no record is about."""
    files = (path for path in folder.rglob("*") if (path.is_file() or path.is_symlink()) and not is_left_over(path))
    return {path.relative_to(folder).as_posix() for path in files}


def _chain(folder: Path, found: Statement, where: str | Path | None) -> Check:
    """Is every record before this one as the next one names it? Looked for beside the run, and where the run began."""
    what, length, here = "chain", 1, folder
    if predecessor_of(found) is None:
        return Check(what, "right", "the first record of its line")
    entries = ledger(where) if where is not None else ledger(folder.resolve().parent, below=False)
    known = {entry.statement.digest: entry for entry in entries}
    while (before := predecessor_of(found)) is not None:
        if (entry := known.get(before["digest"])) is not None:
            found, here = entry.statement, entry.folder
        else:
            named = f"the record of {before['requests'][-1]} ({before['run']})"
            if where is not None:
                return Check(what, "wrong", f"{named} is not in {where}, or was changed")
            place = _began_at(here, found)
            if place is not None and read_statement(place).digest != before["digest"]:
                return Check(what, "wrong", f"{named} was changed")
            if place is not None:
                found, here, length = read_statement(place), place, length + 1
                continue
            gone = stage_of(here) != RELEASE and _made(here.resolve().parent / before["run"], found)
            note = "is gone from its run folder" if gone else "is not here"
            return Check(what, "wrong" if gone else "not checked", f"{named} {note}")
        length += 1
    return Check(what, "right", f"{length} records")


def _began_at(folder: Path, found: Statement) -> Path | None:
    """The run folder with a record in which the start model of a run was made; None where it is not here."""
    if stage_of(folder) == RELEASE:
        return None
    place = before_it(folder)
    return place if place is not None and _made(place, found) else None


def _made(folder: Path, found: Statement) -> bool:
    """Did the run in this folder make the model that another one began with?"""
    if not (folder / MANIFEST).is_file():
        return False
    made = Manifest.load(folder).results.get("result", {})
    return bool(made) and made.get("model") == found.predicate["start_model"]["fingerprint"]


def _scope(found: Statement, salt: bytes, corpus: Corpus) -> Check:
    rows, what = corpus["forget"], "scope"
    if salt_digest(salt) != found.predicate["scope"]["salt_sha256"]:
        return Check(what, "wrong", "the salt is not the one that the record was made with")
    others = out_of_scope(rows, salt, found.predicate["scope"])
    if others:
        return Check(
            what, "wrong", f"{len(others)} of {counted(len(rows), 'row')} were not in it: {places(rows, others)}"
        )
    return Check(what, "right", f"all {counted(len(rows), 'row')} in scope, of {found.predicate['scope']['rows']}")
