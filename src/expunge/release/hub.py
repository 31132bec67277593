"""Putting a release on a model hub: what is there first, one commit, and nothing replaced without being asked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._validators import validate_repo_id

from expunge.core.checks import ExpungeError, require
from expunge.core.surface import flag

_OF_THE_HUB = (".gitattributes",)
"""What a hub itself puts into a repository."""
_NAMED = 5
_UNREACHABLE: type[Exception] = HfHubHTTPError.__bases__[0]
"""What the library that the hub's client asks with raises where nothing answers; its name changed between versions."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A repository on a hub."""

    repo: str
    """`user/name`."""
    private: bool = True
    """Only for its owner, where the repository is made."""
    revision: str | None = None
    """Branch; None: the main one."""

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.repo)
        except HFValidationError as error:
            raise ExpungeError(f"repo must be a name on the hub, such as user/name; got {self.repo!r}.") from error
        require(self.repo.count("/") == 1, f"repo must be user/name; got {self.repo!r}.")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is in a repository."""

    exists: bool
    files: tuple[str, ...] = ()
    commit: str | None = None
    """On which these files are; None: the branch is not there yet."""


def endpoint() -> str:
    """The address of the hub: that of the variable `HF_ENDPOINT`, else huggingface.co."""
    return _api().endpoint


def check_hub(destination: Destination, *, overwrite: bool) -> Found:
    """What is in the repository now.

    Raises:
        ExpungeError: no token or one that is refused, a hub that cannot be reached, or a repository that holds other
            files and may not be replaced.
    """
    if get_token() is None:
        raise ExpungeError("to=hub needs a token that may write: run `hf auth login`, or set HF_TOKEN.")
    api = _api()
    with _told(destination):
        api.whoami()
        try:
            told = api.model_info(destination.repo, revision=destination.revision)
        except RevisionNotFoundError:
            return Found(exists=True)
        except RepositoryNotFoundError:
            return Found(exists=False)
    files = tuple(sorted(one.rfilename for one in told.siblings or () if one.rfilename not in _OF_THE_HUB))
    if files and not overwrite:
        more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
        raise ExpungeError(
            f"{destination.repo} on {api.endpoint} holds files: {', '.join(files[:_NAMED])}{more}. Choose another "
            f"repo or revision, or replace all of them ({flag('overwrite')})."
        )
    return Found(exists=True, files=files, commit=told.sha)


def upload(folder: Path, destination: Destination, found: Found, message: str) -> str:
    """Put all files of a folder into a repository, in one commit; the commit's address.

    Args:
        folder: a finished release.
        destination: the repository, which is made where it is missing.
        found: what `check_hub` saw there; what has come since is an error and not replaced. Its files are removed.
        message: of the commit.

    Raises:
        ExpungeError: the hub refused, or left files out.
    """
    api, begun = _api(), destination.revision is not None and found.commit is None
    made = ""
    if not found.exists:
        with _told(destination):
            api.create_repo(destination.repo, private=destination.private, exist_ok=False)
        made = "it is a new repository without files"
    if begun:
        with _told(destination, made):
            api.create_branch(destination.repo, branch=str(destination.revision))  # with the files of the main one
        made = made or "the branch is new"
    with _told(destination, made):
        done = api.upload_folder(
            repo_id=destination.repo,
            folder_path=folder,
            commit_message=message,
            revision=destination.revision,
            parent_commit=found.commit,
            delete_patterns=["*"] if begun else list(found.files) or None,
        )
        there = set(api.list_repo_files(destination.repo, revision=destination.revision))
    if missing := sorted(_names(folder) - there):
        raise ExpungeError(
            f"{destination.repo} did not take {', '.join(missing)}: a .gitignore there may name them. The commit is "
            f"{done.commit_url}; remove it, or the .gitignore, and run the command again."
        )
    return str(done.commit_url)


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _api() -> HfApi:
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


@contextmanager
def _told(destination: Destination, made: str = "") -> Iterator[None]:
    """What a hub answers, as one of our errors.

    Args:
        destination: what it is asked about.
        made: what was made there for the upload; empty: nothing.
    """
    place = f"{destination.repo} on {endpoint()}"
    nothing = f"no file there was changed ({made})" if made else "nothing there was changed"
    left = f" No file there was changed ({made})." if made else ""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ExpungeError(f"cannot reach {place}: HF_HUB_OFFLINE is set. Unset it, or take to=folder.") from error
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else None
        answered = _ANSWERS.get(code or 0, "the hub refused")
        raise ExpungeError(f"{answered}: {place} ({_first_line(error)}).{left}") from error
    except RuntimeError as error:  # of one file, with what the hub answered as its cause
        why = _first_line(error) + (f" ({_first_line(error.__cause__)})" if error.__cause__ else "")
        raise ExpungeError(f"the upload to {place} stopped, and {nothing}: {why}") from error
    except _UNREACHABLE as error:
        raise ExpungeError(f"cannot reach {place} ({type(error).__name__}: {_first_line(error)}).{left}") from error


_ANSWERS = {
    401: "the hub does not accept the token (401). Log in again (`hf auth login`), or set HF_TOKEN",
    403: "the token may not write there (403). Take a token with write access, or another repo",
    404: "the hub does not find it (404)",
    409: "the repository was made meanwhile (409). Run the command again",
    412: "the repository was changed meanwhile (412). Run the command again",
}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
