"""JSON from outside, with errors that name the place, whatever the text holds."""

import json
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError


class _Repeated(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different; by itself, `json` lets the last one win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Repeated(repr(next(name for name in names if names.count(name) > 1)))
    return found


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        ExpungeError: it is no UTF-8 text, no JSON, or nothing that can be read; the message says where.
    """
    try:
        return parse_json(Path(path).read_bytes().decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise ExpungeError(f"{path} is not UTF-8 text (byte {error.start}: {error.reason}).") from error
    except json.JSONDecodeError as error:
        raise ExpungeError(
            f"{path} is damaged: broken JSON ({error.msg} at line {error.lineno}, column {error.colno})."
        ) from error


def read_object(path: str | Path) -> dict[str, Any]:
    """The content of a JSON file that must hold an object.

    Raises:
        ExpungeError: as `read_json`, and where it holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ExpungeError(f"{path} must hold a JSON object, {{...}}; it holds {type(content).__name__}.")
    return content


def parse_json(text: str, origin: str) -> Any:
    """JSON as Python values.

    Args:
        text: the JSON.
        origin: where it stands, for messages: `forget.jsonl, line 3`.

    Raises:
        json.JSONDecodeError: it is no JSON.
        ExpungeError: values that nest too deep, or a number of more digits than Python reads.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise ExpungeError(f"{origin}: its values nest too deep to be read.") from None
    except _Repeated as error:
        raise ExpungeError(f"{origin}: the key {error} stands twice in one object. Which one counts?") from None
    except ValueError as error:  # the one that is left: a whole number of thousands of digits
        raise ExpungeError(f"{origin}: a number in it is too long to be read ({error}).") from None
