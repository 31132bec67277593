"""Which rows a record is about, as salted hashes: whoever has the salt and a row can prove that it was in scope.

Without the salt, a hash tells nothing of its row, not even to someone who guesses the row.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError
from expunge.core.normal_form import normal
from expunge.core.whole import whole_file
from expunge.data.corpus import Example

BYTES = 32
HASH = "HMAC-SHA256"
CONTENT = "JSON object of completion, messages and prompt, keys sorted, no spaces, UTF-8 in NFC"
"""What of a row is hashed."""


def row_hash(example: Example, salt: bytes) -> str:
    """The salted hash of a row's prompt, earlier messages and completion; 64 hex digits."""
    content = {"completion": example.completion, "messages": example.messages, "prompt": example.prompt}
    text = normal(json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":")))
    return hmac.new(salt, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def salt_digest(salt: bytes) -> str:
    """SHA-256 of a salt, by which it is known again."""
    return hashlib.sha256(salt).hexdigest()


def scope(examples: Sequence[Example], salt: bytes) -> dict[str, Any]:
    """What a record says of its rows; the hashes are sorted, so that not even their order is told."""
    return {
        "rows": len(examples),
        "hash": HASH,
        "content": CONTENT,
        "salt_sha256": salt_digest(salt),
        "hashes": sorted(row_hash(example, salt) for example in examples),
    }


def out_of_scope(examples: Sequence[Example], salt: bytes, scope: Mapping[str, Any]) -> list[int]:
    """Positions of the rows that are not in a record's scope."""
    known = set(scope["hashes"])
    return [number for number, example in enumerate(examples) if row_hash(example, salt) not in known]


def read_salt(path: Path) -> bytes:
    """The salt in a file.

    Raises:
        ExpungeError: there is none, or it is something else.
    """
    if not path.is_file():
        raise ExpungeError(f"no salt at {path}. It was written where the record was made, apart from the run folder.")
    try:
        salt = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        salt = b""
    if len(salt) != BYTES:
        raise ExpungeError(f"{path} is not a salt: it must hold {2 * BYTES} hex digits.")
    return salt


def salt_at(path: Path, run: Path) -> bytes:
    """The salt in a file, which is made with mode 600 where it is missing.

    Raises:
        ExpungeError: the file is inside the run folder, which is handed on, or holds something else.
    """
    if run.resolve() in path.resolve().parents:
        raise ExpungeError(
            f"the salt {path} would be inside the run folder {run}, which is handed on; with it anyone can test "
            "guesses of the rows. Name a file elsewhere: salt=<file>"
        )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as aside:
            with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(secrets.token_hex(BYTES) + "\n")
    return read_salt(path)
