"""What columns mean, and what is said where they are not there."""

import contextvars

import pytest

from expunge.core.checks import ExpungeError
from expunge.core.surface import command_line
from expunge.data.corpus import Example
from expunge.data.row import Row
from expunge.data.schema import check_columns, examples


@pytest.fixture(autouse=True)
def at_a_command_line():
    with command_line():
        yield


def rows(*values, flat=False):
    return [Row(f"f.jsonl, line {n}", value, flat) for n, value in enumerate(values, start=1)]


def read(*values, flat=False, **columns):
    return examples(rows(*values, flat=flat), what="forget (f.jsonl)", columns=columns)


CHAT = [
    {"role": "system", "content": "Hm."},
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "He."},
]


def test_each_kind_is_found_from_its_columns():
    assert read({"question": "Who?", "answer": "He.", "other": 3}) == (
        Example(kind="qa", prompt="Who?", completion="He.", origin="f.jsonl, line 1"),
    )
    assert read({"prompt": "The sun ", "completion": "rose."}) == (
        Example(kind="completion", prompt="The sun ", completion="rose.", origin="f.jsonl, line 1"),
    )
    assert read({"text": "The sun rose."}) == (
        Example(kind="text", completion="The sun rose.", origin="f.jsonl, line 1"),
    )
    assert read({"messages": CHAT}) == (
        Example(
            kind="chat", messages=(("system", "Hm."), ("user", "Who?")), completion="He.", origin="f.jsonl, line 1"
        ),
    )


def test_columns_give_our_names_to_the_users():
    values = {
        "q": "Who?",
        "a": "He.",
        "pq": "Which?",
        "p": "It was he.",
        "w": ["She.", "They."],
        "idk": ["?", "No idea."],
    }
    names = {
        "question": "q",
        "answer": "a",
        "paraphrased_question": "pq",
        "paraphrased_answer": "p",
        "perturbed_answer": "w",
        "alternate": "idk",
    }
    assert read(values, **names) == (
        Example(
            kind="qa",
            prompt="Who?",
            completion="He.",
            paraphrased_prompt="Which?",
            paraphrased="It was he.",
            perturbed=("She.", "They."),
            alternates=("?", "No idea."),
            origin="f.jsonl, line 1",
        ),
    )


def test_one_name_may_be_mapped_and_the_other_not():
    assert read({"q": "Who?", "answer": "He."}, question="q")[0].prompt == "Who?"


def test_variants_may_be_missing_or_null_and_an_alternate_may_be_one_text():
    plain, one = read(
        {"question": "Who?", "answer": "He.", "perturbed_answer": None},
        {"question": "Who?", "answer": "He.", "alternate": "No idea.", "paraphrased_answer": "It was he."},
    )
    assert (plain.perturbed, plain.alternates, plain.paraphrased) == ((), (), None)
    assert (one.alternates, one.paraphrased) == (("No idea.",), "It was he.")


def test_only_in_csv_is_a_bracket_the_beginning_of_a_list():
    assert read({"question": "Who?", "answer": "He.", "alternate": "[laughs] No."})[0].alternates == ("[laughs] No.",)
    with pytest.raises(ExpungeError, match="'perturbed_answer' must be a list of texts; got str"):
        read({"question": "Who?", "answer": "He.", "perturbed_answer": '["She."]'})


def test_cells_of_csv_hold_lists_as_json_and_nothing_when_empty():
    full, bare = read(
        {"question": "Who?", "answer": "He.", "perturbed_answer": '["She.", "They."]', "alternate": "No idea."},
        {"question": "Who?", "answer": "[He].", "perturbed_answer": "", "alternate": ""},
        flat=True,
    )
    assert (full.perturbed, full.alternates) == (("She.", "They."), ("No idea.",))
    assert (bare.completion, bare.perturbed, bare.alternates) == ("[He].", (), ())
    assert (
        read({"messages": '[{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "He."}]'}, flat=True)[
            0
        ].completion
        == "He."
    )
    with pytest.raises(ExpungeError, match=r"line 1: 'perturbed_answer' begins like a JSON list, but is broken"):
        read({"question": "Who?", "answer": "He.", "perturbed_answer": "[She"}, flat=True)


def test_a_missing_column_says_what_there_is_and_how_to_map():
    with pytest.raises(ExpungeError) as caught:
        read({"question": "Who?", "answr": "He.", "id": 3})
    assert str(caught.value) == (
        "forget (f.jsonl) has no column 'answer'; it holds question, answr, id. Say which of them it is: "
        "columns.answer=answr. Rows need question + answer, prompt + completion, messages, text, or the forms of "
        "Alpaca and ShareGPT."
    )


def test_columns_like_none_of_ours_are_asked_for_as_question_and_answer():
    with pytest.raises(
        ExpungeError,
        match=r"no column 'question' and no 'answer'; it holds q, response\. .*"
        r"columns\.question=q columns\.answer=response\.",
    ):
        read({"q": "Who?", "response": "He."})
    with pytest.raises(ExpungeError, match=r"'columns\.question=<column>' 'columns\.answer=<column>'\."):
        read({"first": "Who?", "second": "He."})


def test_half_of_a_mapped_kind_asks_for_its_other_half():
    with pytest.raises(ExpungeError, match=r"has no column 'reply'; it holds q, answer"):
        read({"q": "Who?", "answer": "He."}, question="q", answer="reply")


def test_several_kinds_need_a_choice():
    both = {"question": "Who?", "answer": "He.", "text": "He did."}
    with pytest.raises(
        ExpungeError,
        match=r"can be read in several ways: question \+ answer; text\. Say which: "
        r"columns\.question=question columns\.answer=answer or columns\.text=text",
    ):
        read(both)
    assert read(both, text="text")[0].kind == "text"
    assert read(both, answer="answer")[0].kind == "qa"
    with pytest.raises(ExpungeError, match="several ways"):
        read(both, answer="answer", text="text")


def test_text_beside_a_question_without_an_answer_is_not_guessed_at():
    with pytest.raises(ExpungeError, match=r"several ways: text; question\. Say which: columns\.text=text"):
        read({"question": "Who?", "text": "He."})


def test_a_mapping_does_not_stand_in_the_way_of_a_set_of_another_kind():
    assert read({"text": "He did."}, question="q", answer="a")[0].kind == "text"


def test_a_row_that_lacks_what_others_have_is_named():
    with pytest.raises(
        ExpungeError, match=r"f\.jsonl, line 2: no 'answer', which other rows have; this one holds question"
    ):
        read({"question": "Who?", "answer": "He."}, {"question": "Who?"})


@pytest.mark.parametrize("value, came", [(1956, r"int \(1956\)"), (None, "null"), (["He."], "list"), (True, "bool")])
def test_a_value_that_is_no_text_is_named(value, came):
    with pytest.raises(ExpungeError, match=rf"f\.jsonl, line 2: 'a' must be a text; got {came}"):
        read({"question": "Who?", "a": "He."}, {"question": "Who?", "a": value}, answer="a")


@pytest.mark.parametrize("value", ["", " \n"])
def test_an_empty_value_is_named(value):
    with pytest.raises(ExpungeError, match=r"f\.jsonl, line 1: 'question' is empty"):
        read({"question": value, "answer": "He."})


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(ExpungeError, match=r"line 1: 'text' is not valid Unicode at character 3"):
        read({"text": "He \ud83d"})


@pytest.mark.parametrize(
    "variant, message",
    [
        ({"perturbed_answer": "She."}, "'perturbed_answer' must be a list of texts; got str"),
        ({"perturbed_answer": ["She.", 3]}, r"'perturbed_answer', number 2 must be a text; got int \(3\)"),
        ({"alternate": [""]}, "'alternate', number 1 is empty"),
        ({"alternate": 3}, "'alternate' must be a list of texts; got int"),
        ({"paraphrased_answer": ""}, "'paraphrased_answer' is empty"),
        ({"paraphrased_answer": 3}, "'paraphrased_answer' must be a text; got int"),
    ],
)
def test_a_malformed_variant_is_named(variant, message):
    with pytest.raises(ExpungeError, match=f"line 1: {message}"):
        read({"question": "Who?", "answer": "He."} | variant)


def test_plain_text_has_no_question_to_paraphrase():
    with pytest.raises(ExpungeError, match="line 1: a plain text has no question"):
        read({"text": "He did.", "paraphrased_question": "Who?"})


@pytest.mark.parametrize(
    "messages, message",
    [
        ("Who?", r"must be a list of \{role, content\} or \{from, value\}; got str"),
        ([{"role": "user"}], "message 1: needs role and content"),
        (["Who?"], "message 1: needs role and content; got 'Who"),
        ([{"role": "user", "content": None}], "message 1, content must be a text; got null"),
        ([{"role": "", "content": "Who?"}], "message 1, role is empty"),
        (CHAT[:2], "must end with a message of the assistant .* the roles are system, user"),
        (CHAT[2:], "that answers one before it; the roles are assistant"),
        ([], "must be a list .* got nothing"),
    ],
)
def test_malformed_messages_are_named(messages, message):
    with pytest.raises(ExpungeError, match=f"line 1: 'messages'.*{message}"):
        read({"messages": messages})


def test_a_mapped_column_must_be_in_one_of_the_sets():
    sets = {"forget": rows({"q": "Who?", "pq": "Which?"}), "retain": rows({"text": "He did."})}
    check_columns(sets, {"question": "q", "paraphrased_question": "pq", "text": "text"})
    with pytest.raises(
        ExpungeError,
        match=r"columns\.paraphrased_question=pqq: no such column\. Did you mean "
        r"columns\.paraphrased_question=pq\? There are forget: q, pq; retain: text",
    ):
        check_columns(sets, {"paraphrased_question": "pqq"})


def test_a_mapped_name_must_be_one_of_ours():
    with pytest.raises(ExpungeError, match=r"no column name is called 'anser' \(from columns\.anser=q\).*'answer'"):
        check_columns({"forget": rows({"q": "Who?"})}, {"anser": "q"})


def test_from_python_advice_is_python():
    with pytest.raises(ExpungeError, match=r"'question'.* it is: columns={'question': '<column>'}\. Rows need"):
        contextvars.Context().run(read, {"said": "Who?", "answer": "He."})


ALPACA = {"instruction": "Name the author.", "input": "The book is Night Rain.", "output": "Ann Lee."}


def test_alpaca_rows_are_questions_with_their_input():
    without = ALPACA | {"input": ""}
    for columns in ({}, {"question": "instruction", "answer": "output"}):
        found = read(ALPACA, without, **columns)
        assert [e.prompt for e in found] == ["Name the author.\nThe book is Night Rain.", "Name the author."]
        assert {(e.kind, e.completion) for e in found} == {("qa", "Ann Lee.")}
    (found,) = read(ALPACA, prompt="instruction", completion="output")
    assert (found.kind, found.prompt) == ("completion", "Name the author.\nThe book is Night Rain.")
    with pytest.raises(
        ExpungeError, match=r"several ways: instruction \+ output; text\. .*columns.question=instruction"
    ):
        read(ALPACA | {"text": "Name the author. ..."})


def test_a_column_that_belongs_to_the_prompt_is_joined_or_warned_of():
    values = {"question": "Who?", "context": "In 1956.", "answer": "He."}
    with pytest.warns(UserWarning, match=r"the column 'context' is not read\. .*: columns\.input=context\."):
        read(values)
    assert read(values, input="context")[0].prompt == "Who?\nIn 1956."
    with pytest.warns(UserWarning, match=r"the column 'system' is not read\. .*messages"):
        read({"messages": CHAT, "system": "Be brief."})


def test_sharegpt_conversations_are_messages():
    talk = [{"from": "system", "value": "Hm."}, {"from": "human", "value": "Who?"}, {"from": "gpt", "value": "He."}]
    assert read({"conversations": talk}) == read({"messages": CHAT})


def test_all_faulty_rows_are_named_at_once_the_first_twenty_with_a_count():
    values = [{"question": "Who?", "answer": "" if n % 2 else "He."} for n in range(100)]
    with pytest.raises(ExpungeError) as caught:
        read(*values)
    lines = str(caught.value).split("\n")
    assert lines[0] == "50 of 100 rows of forget (f.jsonl) cannot be used:"
    assert lines[1] == "  f.jsonl, line 2: 'answer' is empty. Fill it in, or take the row out."
    assert len(lines) == 22 and lines[-1] == "  and 30 more"
