"""The file of a record: an in-toto Statement v1 with a seal, and what is wrong with one that was changed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError
from expunge.core.json_text import read_object
from expunge.core.nested import finite

FILE = "erasure.json"
ENVELOPE = "erasure.dsse.json"
FILES = (FILE, ENVELOPE)
"""What a record adds to a run folder."""

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:expunge:erasure-record:v1"
SEAL = "seal"
_CURE = "Make one: expunge record <run> request=..."


def statement(files: Mapping[str, str], predicate: Mapping[str, Any]) -> dict[str, Any]:
    """The statement about some files, sealed with a digest of all that it says.

    Args:
        files: SHA-256 of each file, `sha256:` and 64 hex digits, by its path in the run folder.
        predicate: what is said of them.
    """
    content = {
        "_type": TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest.partition(":")[2]}} for name, digest in files.items()],
        "predicateType": PREDICATE,
        "predicate": dict(predicate),
    }
    plain: dict[str, Any] = json.loads(json.dumps(finite(content), allow_nan=False))
    plain["predicate"][SEAL] = _seal(plain)
    return plain


def text_of(content: Mapping[str, Any]) -> str:
    """A statement as it is written: the same content always gives the same bytes."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _seal(content: Mapping[str, Any]) -> str:
    predicate = {name: value for name, value in content["predicate"].items() if name != SEAL}
    plain = json.dumps({**content, "predicate": predicate}, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(plain.encode()).hexdigest()}"


@dataclass(frozen=True)
class Statement:
    """A statement as it was read, changed or not."""

    content: Mapping[str, Any]
    written: bytes
    """The bytes of the file."""
    fault: str = ""
    """What says that it was changed since it was written; empty: nothing."""

    @property
    def predicate(self) -> Mapping[str, Any]:
        """What the record says."""
        found: Mapping[str, Any] = self.content["predicate"]
        return found

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of each file by its name, as `file_digest` writes it."""
        return {one["name"]: f"sha256:{one['digest']['sha256']}" for one in self.content["subject"]}

    @property
    def digest(self) -> str:
        """SHA-256 of the file, by which the next record of the model line names this one."""
        return f"sha256:{hashlib.sha256(self.written).hexdigest()}"


def read_statement(folder: Path) -> Statement:
    """The record in a run folder, or in a file.

    Raises:
        ExpungeError: there is none, or the file is no erasure record in a form that can be read at all.
    """
    path = folder / FILE if folder.is_dir() else folder
    if not path.is_file():
        raise ExpungeError(f"no erasure record at {path}. {_CURE}")
    content, written = read_object(path), path.read_bytes()
    if content.get("_type") != TYPE or content.get("predicateType") != PREDICATE:
        raise ExpungeError(f"{path} is not an erasure record: its types must be {TYPE} and {PREDICATE}.")
    try:
        found = Statement(content, written)
        seal, _ = content["predicate"].get(SEAL), found.files
    except (KeyError, TypeError, AttributeError) as error:
        raise ExpungeError(f"{path} is damaged: its fields are not those of an erasure record ({error!r}).") from error
    if seal != _seal(content):
        return Statement(content, written, "its content is not what its seal was made of")
    if written != text_of(content).encode():
        return Statement(content, written, "its text is not as it was written")
    return found
