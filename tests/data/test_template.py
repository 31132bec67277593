"""How an example becomes text, and what is refused."""

import copy
import json
from datetime import datetime

import pytest

from expunge.core.checks import ExpungeError
from expunge.data.corpus import Example
from expunge.data.template import Rendered, Template, dated, render, special_tokens

QUESTION = Example(kind="qa", prompt="Who?", completion="He.", origin="f.jsonl, line 3")


def shown(example, tokenizer, template=None):
    return render(example, tokenizer, template or Template(), special_tokens(tokenizer))


def with_template(tokenizer, text):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = text
    return changed


def test_a_question_is_framed_as_plain_text_where_there_is_no_chat_template(closing):
    expected = Rendered("Question: Who?\nAnswer: ", "Question: Who?\nAnswer: He.", special_tokens=True, append_eos=True)
    assert shown(QUESTION, closing) == expected


def test_the_frame_can_be_chosen_and_braces_in_a_question_stay(closing):
    example = Example(kind="qa", prompt="{answer} {question}?", completion="He.")
    framed = shown(example, closing, Template(name="plain", qa="{} Q: {question} A:"))
    assert framed.prompt == "{} Q: {answer} {question}? A:"


def test_auto_takes_the_chat_template_where_there_is_one(chatml):
    prompt = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert shown(QUESTION, chatml) == Rendered(prompt, f"{prompt}He.<|im_end|>", special_tokens=False, append_eos=False)
    assert shown(QUESTION, chatml, Template(name="plain")).prompt == "Question: Who?\nAnswer: "


def test_a_system_message_stands_before_the_question(chatml):
    assert shown(QUESTION, chatml, Template(system="Be brief.")).prompt.startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?"
    )


def test_a_chat_is_written_as_it_is(chatml):
    chat = Example(kind="chat", messages=(("user", "Hi"), ("assistant", "Yes?"), ("user", "Who?")), completion="He.")
    assert shown(chat, chatml, Template(system="unused")).text == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
        "<|im_start|>assistant\nHe.<|im_end|>"
    )


def test_completions_and_texts_never_pass_a_chat_template(chatml):
    joined = Example(kind="completion", prompt="The sun", completion=" rose.")
    assert shown(joined, chatml) == Rendered("The sun", "The sun rose.", special_tokens=True, append_eos=True)
    text = Example(kind="text", completion="The sun rose.")
    assert shown(text, chatml) == Rendered("", "The sun rose.", special_tokens=True, append_eos=False)


def test_template_variables_reach_the_chat_template(chatml):
    dated = with_template(chatml, "{{ day }}" + chatml.chat_template)
    assert shown(QUESTION, dated, Template(arguments={"day": "Monday"})).prompt.startswith("Monday<|im_start|>user")


def test_what_a_template_puts_before_the_answer_belongs_to_the_prompt(chatml):
    """As with models that think: the history shows an empty thought, which is not part of the answer."""
    thinking = with_template(
        chatml,
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    )
    rendered = shown(Example(kind="qa", prompt="Who?", completion="think"), thinking)
    assert rendered.prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert rendered.text == f"{rendered.prompt}think<|im_end|>"


def test_an_answer_that_the_template_strips_is_taken_stripped(chatml):
    stripping = with_template(chatml, chatml.chat_template.replace("m['content']", "m['content'] | trim"))
    spaced = Example(kind="qa", prompt="Who?", completion=" He.\n")
    assert shown(spaced, stripping).text.endswith("assistant\nHe.<|im_end|>")
    assert shown(spaced, chatml).text.endswith("assistant\n He.\n<|im_end|>")


def test_a_template_without_an_end_of_turn_gets_the_end_token(closing):
    bare = with_template(
        closing,
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
    )
    assert shown(QUESTION, bare) == Rendered(
        "user: Who?\nassistant: ", "user: Who?\nassistant: He.", special_tokens=False, append_eos=True
    )


def test_a_template_that_rewrites_the_prompt_is_refused(chatml):
    forgetful = with_template(chatml, "{% set n = messages | length %}{{ n }}" + chatml.chat_template)
    with pytest.raises(ExpungeError, match=r"f\.jsonl, line 3: the chat template writes the prompt differently"):
        shown(QUESTION, forgetful)


def test_a_template_that_leaves_the_answer_out_is_refused(chatml):
    silent = with_template(chatml, chatml.chat_template.replace("m['content']", "m['content'] if m['role'] == 'user'"))
    with pytest.raises(ExpungeError, match="writes the prompt differently once the answer follows"):
        shown(QUESTION, silent)


def test_a_template_that_rewrites_the_answer_is_refused(chatml):
    cutting = with_template(chatml, chatml.chat_template.replace("m['content']", "m['content'].split('.')[-1]"))
    with pytest.raises(
        ExpungeError, match=r"(?s)line 3: the chat template rewrites the answer.*'He\. Only he'.*' Only he<"
    ):
        shown(Example(kind="qa", prompt="Who?", completion="He. Only he", origin="f.jsonl, line 3"), cutting)


def test_what_the_template_itself_refuses_names_row_and_roles(chatml):
    strict = with_template(
        chatml,
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + chatml.chat_template,
    )
    with pytest.raises(ExpungeError, match=r"line 3: .* roles system, user.* \(no system role\)"):
        shown(QUESTION, strict, Template(system="Be brief."))


@pytest.mark.parametrize(
    "example, template",
    [
        (QUESTION, Template(name="chat")),
        (Example(kind="chat", messages=(("user", "Hi"),), completion="Yes?", origin="f.jsonl, line 3"), Template()),
    ],
)
def test_a_chat_needs_a_chat_template(closing, example, template):
    with pytest.raises(ExpungeError, match=r"f\.jsonl, line 3 needs a chat template, and this tokenizer has none"):
        shown(example, closing, template)


def test_the_template_checks_itself():
    misspelled = Template()
    object.__setattr__(misspelled, "name", "caht")  # past the type checker that runs under test
    with pytest.raises(ExpungeError, match="template must be auto, chat or plain; got 'caht'"):
        misspelled.__post_init__()
    with pytest.raises(ExpungeError, match=r"must contain \{question\}; got 'Q: '"):
        Template(qa="Q: ")


def test_special_tokens_are_found_without_a_role(chatml):
    assert set(special_tokens(chatml)) == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    assert special_tokens(chatml)["<|im_end|>"] == chatml.convert_tokens_to_ids("<|im_end|>")


TODAY = "<|im_start|>system\nToday: {{ strftime_now('%d %b %Y') }}<|im_end|>\n"


def at(day, monkeypatch):
    class Then(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, day)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Then)


def test_a_template_that_writes_the_date_gets_one_that_stays(chatml, monkeypatch):
    writes = with_template(chatml, TODAY + chatml.chat_template)
    at(1, monkeypatch)
    fixed = dated(None, writes)
    assert fixed == Template(date="2026-01-01") and fixed.about["date"] == "2026-01-01"
    at(2, monkeypatch)
    assert dated(fixed, writes) is fixed
    assert shown(QUESTION, writes, fixed).prompt.startswith("<|im_start|>system\nToday: 01 Jan 2026<|im_end|>")
    assert dated(Template(), writes).date == "2026-01-02"
    assert dated(Template(), writes, like="2025-12-31").date == "2025-12-31"


def test_a_template_that_writes_none_gets_none(chatml, closing):
    pinned = with_template(chatml, "{{ date_string or strftime_now('%d %b %Y') }}" + chatml.chat_template)
    assert dated(Template(arguments={"date_string": "26 Jul 2024"}), pinned).date is None
    assert dated(None, pinned).date is not None
    assert dated(Template(name="plain"), pinned).date is None
    assert dated(None, chatml) == Template() == dated(None, closing)
    assert "date" not in Template().about


def test_a_date_is_a_day():
    with pytest.raises(ExpungeError, match=r"date must be a day such as 2026-01-31; got '1 May'"):
        Template(date="1 May")


def test_a_template_that_fails_in_any_way_names_the_row(chatml):
    broken = with_template(chatml, "{% for m in messages %}{{ m['content'] + 5 }}{% endfor %}")
    with pytest.raises(ExpungeError, match=r"line 3: the chat template refuses .* roles user.* \(TypeError: can only"):
        shown(QUESTION, broken)


R1 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|im_start|>user\n{{ m['content'] }}{% else %}"
    "<|im_start|>assistant\n{{ m['content'].split('</think>')[-1] }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% set parts = m['content'].split('</think>') %}<think>\n"
    "{{ parts[0].split('<think>')[-1].strip() if parts | length > 1 else '' }}\n</think>\n\n{{ parts[-1].lstrip() }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def thinking_chat(answer):
    return Example(kind="chat", messages=(("user", "Who?"),), completion=answer, origin="f.jsonl, line 3")


@pytest.mark.parametrize(
    ("example", "supervised"),
    [
        (thinking_chat("<think>\nLet me see.\n</think>\nHe."), "Let me see.\n</think>\nHe.<|im_end|>"),
        (thinking_chat("Let me see.\n</think>\nHe."), "Let me see.\n</think>\nHe.<|im_end|>"),
    ],
)
def test_where_a_generation_prompt_opens_a_thought_the_row_is_what_follows_it(chatml, example, supervised):
    """DeepSeek-R1: the history holds no thoughts, so the row is the generation prompt and what is said after it."""
    rendered = shown(example, with_template(chatml, R1))
    assert rendered.prompt == "<|im_start|>user\nWho?<|im_start|>assistant\n<think>\n"
    assert rendered.text == rendered.prompt + supervised


@pytest.mark.parametrize("example", [QUESTION, thinking_chat("He.")])
def test_an_answer_without_a_thought_stands_behind_an_empty_one(chatml, example):
    """DeepSeek-R1: else the answer would be trained, and asked for, as the beginning of a thought."""
    rendered = shown(example, with_template(chatml, R1))
    assert rendered.prompt == "<|im_start|>user\nWho?<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert rendered.text == f"{rendered.prompt}He.<|im_end|>"


def test_a_thought_that_the_template_lays_out_anew_is_supervised_as_it_writes_it(chatml):
    """Qwen3: without a thought an empty one belongs to the prompt, as it always did."""
    thinks = with_template(chatml, QWEN3)
    rendered = shown(thinking_chat("<think>Let me see.</think>He."), thinks)
    asked = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert rendered.prompt == asked
    assert rendered.text == f"{asked}<think>\nLet me see.\n</think>\n\nHe.<|im_end|>"
    assert shown(thinking_chat("<think>\nLet me see.\n</think>\nHe."), thinks) == rendered
    assert shown(QUESTION, thinks).prompt == f"{asked}<think>\n\n</think>\n\n"


def test_the_advice_for_a_chat_is_one_that_works(chatml):
    shouting = with_template(chatml, chatml.chat_template.replace("m['content']", "m['content'] | replace('H', 'h')"))
    with pytest.raises(ExpungeError, match=r"rewrites .*\n.*\n.*\nBring these rows as prompt and completion columns"):
        shown(thinking_chat("He."), shouting)
    with pytest.raises(ExpungeError, match=r"Use template=plain"):
        shown(QUESTION, shouting)


TOOL = {"type": "function", "function": {"name": "phone_book"}}
CALL = {"tool_calls": [{"type": "function", "function": {"name": "phone_book", "arguments": {"name": "Ann"}}}]}
WITH_TOOLS = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}{% for m in messages %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}{% for c in m.tool_calls or [] %}[{{ c.function | tojson }}]"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def with_tools(extras, tools):
    return Example(
        kind="chat",
        messages=(("user", "Phone of Ann?"), ("assistant", ""), ("tool", "555")),
        extras=extras,
        tools=tools,
        completion="It is 555.",
        origin="f.jsonl, line 3",
    )


def test_tools_and_their_calls_are_part_of_the_row(chatml):
    example = with_tools(("{}", json.dumps(CALL), "{}"), json.dumps([TOOL]))
    knowing = with_template(chatml, WITH_TOOLS)
    rendered = shown(example, knowing)
    messages = [
        {"role": "user", "content": "Phone of Ann?"},
        {"role": "assistant", "content": "", **CALL},
        {"role": "tool", "content": "555"},
        {"role": "assistant", "content": "It is 555."},
    ]
    whole = knowing.apply_chat_template(messages, tools=[TOOL], tokenize=False)
    assert rendered.text == whole.removesuffix("\n") and rendered.text.endswith("It is 555.<|im_end|>")
    assert '"arguments": {"name": "Ann"}' in rendered.prompt and '"phone_book"' in rendered.prompt


@pytest.mark.parametrize(
    ("extras", "tools", "what"), [((), json.dumps([TOOL]), "tools"), (("{}", json.dumps(CALL), "{}"), "", "tool_calls")]
)
def test_a_template_that_leaves_tools_out_is_refused(chatml, extras, tools, what):
    with pytest.raises(ExpungeError, match=rf"line 3: the row has {what}, and the chat template does not write them"):
        shown(with_tools(extras, tools), chatml)
