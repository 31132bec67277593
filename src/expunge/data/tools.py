"""Messages with tools: what a chat row holds besides roles and texts, kept for the chat template or refused."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.checks import ExpungeError

_SAID = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""What a message says besides its content."""


def tools_of(value: Any, where: str) -> str:
    """The tools that a row offers, a list or the JSON text of one, as JSON; empty for none.

    Raises:
        ExpungeError: something else.
    """
    if value in (None, "", []):
        return ""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise ExpungeError(f"{where} must be a list of tools; got {value[:60]!r}, which is no JSON.") from error
    if not isinstance(found, list | tuple) or not all(isinstance(tool, Mapping) for tool in found):
        raise ExpungeError(f"{where} must be a list of tools, each an object; got {str(value)[:60]!r}.")
    return json.dumps(_plain(found), ensure_ascii=False)


def extras_of(messages: Sequence[Mapping[str, Any]], where: str) -> tuple[str, ...]:
    """What the messages before the last hold besides role and content, as JSON objects; empty where none holds any.

    Raises:
        ExpungeError: the last one says something besides its content, which would not be supervised.
    """
    found = [
        _plain({k: v for k, v in message.items() if k not in ("role", "content") and v not in (None, "", [], {})})
        for message in messages
    ]
    for name in _SAID:
        if found and name in found[-1]:
            raise ExpungeError(
                f"{where}, message {len(found)}: the last message has {name}, and only its content is supervised. "
                "Write it into the content as the model is to say it, or end the row at another message."
            )
    return tuple(json.dumps(more, ensure_ascii=False) for more in found[:-1]) if any(found[:-1]) else ()


def _plain(value: Any) -> Any:
    """Without the nulls that tables fill missing fields with."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
