"""How an example becomes text: the one place with rules for prompts, chat templates, beginning and end tokens."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from expunge.core.checks import ExpungeError, require_type
from expunge.data.corpus import Example

PLAIN_QA = "Question: {question}\nAnswer: "
_STAND_IN = "(here stands the answer)"
_DATE_CODES = tuple(f"%{flag}{code}" for flag in ("-", "") for code in "aAwdbBmyYHIpMSfjUWcxXGuVDeFTRh")
_FIXED_DATE = (
    "{% macro strftime_now(format) %}{% set found = namespace(text=format) %}"
    "{% for code, value in fixed_date.items() %}{% set found.text = found.text.replace(code, value) %}"
    "{% endfor %}{{ found.text }}{% endmacro %}{{ '' }}"
)
"""Put before a chat template, takes the place of its clock: values alone reach it from outside, no functions."""
_THOUGHT = re.compile(r"\s*(<(?P<tag>\w+)>)?.*</(?P<end>\w+)>\s*", re.DOTALL)
"""A thought before an answer, with or without the tag that opens it, which a generation prompt may have written."""
_OPEN = re.compile(r"<(?P<tag>\w+)>\s*$")
"""The tag of a thought that a generation prompt opens."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """How questions are framed."""

    name: Literal["auto", "chat", "plain"] = "auto"
    """`chat`: the tokenizer's chat template. `plain`: the text of `qa`. `auto`: chat where the tokenizer has a
    template."""
    qa: str = PLAIN_QA
    """Frame of a question when plain."""
    system: str | None = None
    """System message put before a question when chat; None leaves it out."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """More variables for the chat template, such as `date_string`."""
    date: str | None = None
    """What a chat template that writes today's date takes for it, such as `2026-01-31`; None: today, fixed by
    `dated`."""

    def __post_init__(self) -> None:
        if self.name not in ("auto", "chat", "plain"):
            raise ExpungeError(f"template must be auto, chat or plain; got {self.name!r}.")
        if "{question}" not in self.qa:
            raise ExpungeError(f"the plain question frame must contain {{question}}; got {self.qa!r}.")
        if self.date is not None:
            try:
                datetime.strptime(self.date, "%Y-%m-%d")
            except ValueError as error:
                raise ExpungeError(f"date must be a day such as 2026-01-31; got {self.date!r}.") from error

    @property
    def about(self) -> dict[str, Any]:
        """For manifests: all fields; the date only where there is one."""
        return {name: value for name, value in asdict(self).items() if name != "date" or value is not None}


def given_template(template: Template | None) -> Template:
    """A template as it is, or the default one."""
    require_type("template", template, (Template, type(None)), "an expunge.Template or None")
    return template or Template()


def dated(template: Template | None, tokenizer: PreTrainedTokenizerBase, *, like: str | None = None) -> Template:
    """The template with a fixed date, where the tokenizer's chat template writes today's.

    Without it, the prompts of a run would change at midnight.

    Args:
        template: how questions are framed; None: the tokenizer's chat template where it has one.
        tokenizer: it holds the chat template.
        like: the date of what is gone on from or compared with; None: today.
    """
    template = given_template(template)
    if template.date is not None or template.name == "plain" or not getattr(tokenizer, "chat_template", None):
        return template
    if not any(_writes_date(messages, tokenizer, template) for messages in _ASKED):
        return template
    if like is None:  # today as chat templates see it
        like = tokenizer.apply_chat_template(  # type: ignore[assignment]
            [{"role": "user", "content": ""}], chat_template="{{ strftime_now('%Y-%m-%d') }}", tokenize=False
        )
    return replace(template, date=like)


_ASKED: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": "Who?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}],
)


def _writes_date(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, template: Template) -> bool:
    days = (replace(template, date=day) for day in ("2001-02-03", "2014-11-25"))
    try:
        one, other = (_written(messages, tokenizer, day, "", add_generation_prompt=True) for day in days)
    except ExpungeError:
        return False  # rows that the template refuses are named where they are written
    return one != other


@dataclass(frozen=True)
class Rendered:
    """An example as text, ready for a tokenizer."""

    prompt: str
    """Everything before the completion, what a chat template puts there (an empty thought, say) included."""
    text: str
    """Prompt and completion together; starts with `prompt`."""
    special_tokens: bool
    """Let the tokenizer add its own beginning token? Not when a chat template already wrote it."""
    append_eos: bool
    """Close with the tokenizer's end token, unless the text already does?"""


def render(
    example: Example, tokenizer: PreTrainedTokenizerBase, template: Template, special: Collection[str]
) -> Rendered:
    """Write an example as text.

    Beginning token: written by the chat template, else added if the tokenizer adds one by itself. End token: questions,
    completions and chats close with the end-of-turn token of the chat template, else with the tokenizer's end token,
    and it is supervised; plain text gets none. A tokenizer without an end token leaves the row open.

    Args:
        example: what to write.
        tokenizer: it holds the chat template.
        template: how questions are framed.
        special: the tokenizer's special tokens, as `special_tokens` finds them.

    Raises:
        ExpungeError: a chat example or `template=chat` with a tokenizer without a chat template, or a chat template
            that refuses the messages, rewrites the answer, or writes the prompt differently once the answer is there.
    """
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if example.kind == "text":
        return Rendered("", example.completion, special_tokens=True, append_eos=False)
    if example.kind == "completion":
        return Rendered(example.prompt, example.prompt + example.completion, special_tokens=True, append_eos=True)
    if example.kind == "chat" or template.name == "chat" or (template.name == "auto" and has_template):
        if not has_template:
            raise ExpungeError(
                f"{example.origin or 'an example'} needs a chat template, and this tokenizer has none. Use "
                "template=plain with question and answer columns, or set tokenizer.chat_template."
            )
        return _render_chat(example, tokenizer, template, special)
    prompt = template.qa.replace("{question}", example.prompt)
    return Rendered(prompt, prompt + example.completion, special_tokens=True, append_eos=True)


def _render_chat(
    example: Example, tokenizer: PreTrainedTokenizerBase, template: Template, special: Collection[str]
) -> Rendered:
    name = example.origin or "an example"
    if example.kind == "chat":
        before = [{"role": role, "content": content} for role, content in example.messages]
        for message, more in zip(before, example.extras, strict=False):
            message |= json.loads(more)
    else:
        system = [{"role": "system", "content": template.system}] if template.system is not None else []
        before = [*system, {"role": "user", "content": example.prompt}]
    tools = json.loads(example.tools) if example.tools else None

    def written(*answer: str, **how: Any) -> str:
        messages = [*before, *({"role": "assistant", "content": text} for text in answer)]
        return _written(messages, tokenizer, template, name, tools=tools, **how)

    # Writing a stand-in shows what the template puts around an answer, whatever the answer says.
    frame = written(_STAND_IN)
    prompt, _, after = frame.rpartition(_STAND_IN)
    asked = written(add_generation_prompt=True)
    _check_tools(example, before, asked, tokenizer, template, name)
    # What a template writes after the end of turn (a newline, say) is neither said by the model nor supervised.
    ends = [at + len(token) for token in special if (at := after.find(token)) >= 0]
    closing = after[: min(ends)] if ends else ""

    def rendered(prompt: str, answer: str) -> Rendered:
        return Rendered(prompt, prompt + answer + closing, special_tokens=False, append_eos=not ends)

    text = written(example.completion)
    answers = (example.completion, example.completion.strip())
    if prompt.startswith(asked):
        for answer in answers:
            if text == prompt + answer + after:
                return rendered(prompt, answer)
    elif not (prompt and asked.startswith(prompt)):
        raise ExpungeError(
            f"{name}: the chat template writes the prompt differently once the answer follows, so the two cannot be "
            f"told apart.\n  prompt:      {asked[-120:]!r}\n  with answer: {frame[-240:]!r}\n{_advice(example)}"
        )
    # Templates of models that think: the generation prompt may open a thought, and the one of an answer may be stripped
    # or written in another layout. The row is then the generation prompt, and what the model is to say after it.
    opened = asked.removeprefix(prompt) if asked.startswith(prompt) else ""
    said = text[len(asked) : len(text) - len(after)] if text.startswith(asked) and text.endswith(after) else None
    if said is not None and _without_spaces(said) == _without_spaces(example.completion):
        return rendered(asked, said)
    kept = text.removeprefix(prompt).removesuffix(after).strip()
    thought = example.completion.strip().removesuffix(kept)
    if kept and example.completion.strip().endswith(kept) and (not thought or _THOUGHT.fullmatch(thought)):
        answer = example.completion
        if not thought and (tag := _OPEN.search(opened)):
            # An answer without a thought follows an empty one, or it would be trained as the beginning of a thought.
            return rendered(f"{asked}\n</{tag['tag']}>\n\n", answer.strip())
        if opened and answer.lstrip().startswith(opened.strip()):
            answer = answer.lstrip().removeprefix(opened.strip()).removeprefix("\n" * opened.endswith("\n"))
        return rendered(asked, answer)
    raise ExpungeError(
        f"{name}: the chat template rewrites the answer, so it cannot be supervised as it is.\n"
        f"  answer:  {example.completion[-120:]!r}\n  written: {text[len(prompt) :][-120:]!r}\n{_advice(example)}"
    )


def _advice(example: Example) -> str:
    if example.kind == "chat":
        way = "Bring these rows as prompt and completion columns, which pass no chat template"
    else:
        way = "Use template=plain"
    return f"{way}, or template_arguments with which the template keeps the text as it is."


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def _check_tools(
    example: Example,
    before: Sequence[Mapping[str, Any]],
    asked: str,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    name: str,
) -> None:
    """Raise where a chat template leaves out the tools of a row, or the calls of them."""
    tools = json.loads(example.tools) if example.tools else None
    bare = [{k: v for k, v in message.items() if k != "tool_calls"} for message in before]
    calls = any("tool_calls" in message for message in before)
    for what, there, messages, offered in (
        ("tools", tools is not None, before, None),
        ("tool_calls", calls, bare, tools),
    ):
        if there and asked == _written(messages, tokenizer, template, name, tools=offered, add_generation_prompt=True):
            raise ExpungeError(
                f"{name}: the row has {what}, and the chat template does not write them. Take them out of the row, or "
                "use the tokenizer of a model that was trained with tools: tokenizer=<folder or id>."
            )


def _written(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    name: str,
    *,
    tools: list[Any] | None = None,
    add_generation_prompt: bool = False,
) -> str:
    how: dict[str, Any] = {**template.arguments, "tokenize": False, "add_generation_prompt": add_generation_prompt}
    try:
        if template.date is not None:
            day = datetime.strptime(template.date, "%Y-%m-%d")
            how["chat_template"] = _FIXED_DATE + tokenizer.get_chat_template(None, tools=tools)
            how["fixed_date"] = {code: day.strftime(code) for code in _DATE_CODES}
        return str(tokenizer.apply_chat_template([dict(message) for message in messages], tools=tools, **how))
    except Exception as error:  # a template is a program from outside, which may fail in any way
        roles = ", ".join(str(message["role"]) for message in messages)
        why = f"{error}" if type(error).__name__ == "TemplateError" else f"{type(error).__name__}: {error}"
        raise ExpungeError(f"{name}: the chat template refuses messages with the roles {roles} ({why}).") from error


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Special tokens and their ids, those included that have no role of their own, as many tokenizers' end of turn."""
    added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
