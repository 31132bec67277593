"""Results as JSON with a digest of their content, so that what was changed since is not taken for a result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError
from expunge.core.json_text import read_object
from expunge.core.manifest import fingerprint
from expunge.core.nested import finite
from expunge.core.whole import write_whole

DIGEST = "digest"


def write_sealed(path: Path, content: Mapping[str, Any]) -> Path:
    """Write JSON, whole or not at all, with a digest of its content.

    Args:
        path: its folder is made where it is missing.
        content: what has a JSON form; NaN and infinities, which JSON lacks, are written as null.
    """
    plain = json.loads(json.dumps(finite(content), allow_nan=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**plain, DIGEST: fingerprint(plain)}, indent=1, ensure_ascii=False)
    write_whole(path, text + "\n")
    return path


def read_sealed(path: Path, what: str, cure: str) -> dict[str, Any]:
    """What `write_sealed` wrote.

    Args:
        path: the file.
        what: it should be, for messages: `an evaluation`.
        cure: how such a file is made again, for messages.

    Raises:
        ExpungeError: it is no JSON, or not what was written: its content has another digest.
    """
    content = read_object(path)
    if DIGEST not in content:
        raise ExpungeError(f"{path} is not {what} that expunge wrote: it holds no digest of its content. {cure}")
    if content.pop(DIGEST) != fingerprint(content):
        raise ExpungeError(f"{path} was changed since expunge wrote it. {cure}")
    return content
