"""Manifests: next to every artifact, what made it; and fingerprints of content."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from expunge.core.checks import ExpungeError, near_folder, path_of
from expunge.core.json_text import parse_json
from expunge.core.whole import write_whole

FILE = "manifest.json"
_PACKAGES = ("expunge", "torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy")


def fingerprint(content: Any) -> str:
    """A content hash, `xxh3:` and 32 hex digits: of bytes as they are, of anything else as canonical JSON.

    It guards against mix-ups and stale caches, not against an adversary.
    """
    if not isinstance(content, bytes):
        content = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    return f"xxh3:{xxhash.xxh3_128_hexdigest(content)}"


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, `sha256:` and 64 hex digits; of a folder, of the names and digests in it."""
    digest = hashlib.sha256()
    if path.is_dir():
        for name, content in file_digests(path).items():
            digest.update(f"{name} {content}\n".encode())
    else:
        with path.open("rb") as opened:
            while piece := opened.read(2**20):
                digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def files_digest(source: str | Path) -> str | None:
    """The SHA-256 of a file or folder, of several as `a,b` the digests joined by `+`; None where one is not there."""
    paths = [Path(one).expanduser() for one in several(source)]
    return "+".join(map(file_digest, paths)) if all(path.exists() for path in paths) else None


def several(source: str | Path) -> list[str | Path]:
    """The files that `a,b` names; of parts that together are the name of a file that is there, that one.

    Raises:
        ExpungeError: nothing between two commas, or after the last.
    """
    if not isinstance(source, str) or "," not in source:
        return [source]
    found: list[str | Path] = []
    left = source.split(",")
    while left:
        count = next((n for n in range(len(left), 1, -1) if Path(",".join(left[:n])).expanduser().exists()), 1)
        name = ",".join(left[:count]).strip()
        if not name:
            raise ExpungeError(f"'{source}' names nothing between two commas, or after the last. Leave that comma out.")
        found.append(name)
        left = left[count:]
    return found


def file_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder and below it, by its path in the folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What made an artifact: whoever finds it in a year can make it again."""

    stage: str
    """The stage that wrote it: `train`, `unlearn`, `evaluate`, ..."""
    arguments: dict[str, Any]
    """Every resolved setting of that stage."""
    seed: int | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    """Fingerprint of each input by its role: `model`, `forget`, `retain`, ..."""
    results: dict[str, Any] = field(default_factory=dict)
    """What came out, in a few numbers: steps, rows, tokens, seconds."""
    versions: dict[str, str] = field(default_factory=lambda: versions())
    git: dict[str, Any] | None = field(default_factory=lambda: git_revision())
    created: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def save(self, folder: str | Path) -> Path:
        """Write `manifest.json` into `folder`, which is made where it is missing."""
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.text() + "\n")
        return path

    def text(self) -> str:
        """The manifest as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, default=str)

    @classmethod
    def load(cls, folder: str | Path) -> "Manifest":
        """Read the manifest of the artifact in `folder`.

        Raises:
            ExpungeError: there is none, or the file is damaged or something else.
        """
        path = path_of("folder", folder) / FILE
        if not path.parent.exists():
            raise ExpungeError(f"there is no folder {folder}.{near_folder(path.parent, FILE)}")
        if not path.is_file():
            raise ExpungeError(f"no manifest in {folder}: expected the file {path}.")
        try:
            return cls.parsed(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ExpungeError(f"{path} is damaged, or no manifest of expunge: {error}.") from error

    @classmethod
    def parsed(cls, text: str) -> "Manifest":
        """The manifest that `text` gave.

        Raises:
            ValueError: it is none.
        """
        content = parse_json(text, FILE)
        known = cls.__dataclass_fields__
        found = {k: v for k, v in content.items() if k in known} if isinstance(content, dict) else {}
        objects = (found.get(name, {}) for name in ("arguments", "inputs", "results", "versions"))
        if (
            not isinstance(found.get("stage"), str)
            or "arguments" not in found
            or not all(isinstance(value, dict) for value in objects)
        ):
            raise ValueError("its fields are others")
        return cls(**found)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return dict(_versions(_PACKAGES))


@cache
def _versions(packages: tuple[str, ...]) -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_revision(folder: str | Path = ".") -> dict[str, Any] | None:
    """Commit and cleanliness of the caller's git tree; None outside of one or where git is missing."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def jsonable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` with every value in a form that JSON can hold; objects become their type's name."""

    def plain(value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple | set):
            return [plain(v) for v in value]
        if isinstance(value, Path):
            return str(value)
        return f"<{type(value).__module__}.{type(value).__qualname__}>"

    return {k: plain(v) for k, v in arguments.items()}
