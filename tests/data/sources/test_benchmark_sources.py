"""MUSE, WMDP and LUME: their shapes, and what is said of wrong ones."""

import json
from pathlib import Path

import pytest

from expunge.core.checks import ExpungeError
from expunge.data.corpus import load_corpus


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


QUESTION = {"question": "Two plus two?", "choices": ["3", "4", "5"], "answer": 1, "subject": "high_school_math"}


def test_multiple_choice_is_asked_as_the_harness_asks(tmp_path):
    write(tmp_path / "wmdp_bio.jsonl", [QUESTION, {**QUESTION, "answer": "C", "subject": None}])
    one, two = load_corpus("wmdp", path=tmp_path)["wmdp_bio"]
    assert one.prompt == (
        "The following are multiple choice questions (with answers) about high school math.\n\n"
        "Two plus two?\nA. 3\nB. 4\nC. 5\nAnswer:"
    )
    assert one.completion == " B" and one.perturbed == (" A", " C") and one.kind == "completion"
    assert two.completion == " C" and two.perturbed == (" A", " B")
    assert "about biology." in two.prompt  # the task's own subject


def test_tasks_and_texts_are_chosen(tmp_path):
    write(tmp_path / "q" / "mmlu.jsonl", [QUESTION])
    write(tmp_path / "q" / "wmdp_cyber.jsonl", [QUESTION] * 2)
    write(tmp_path / "forget.jsonl", [{"text": "A text."}])
    corpus = load_corpus("wmdp", path=tmp_path / "q", tasks=("mmlu",), forget=tmp_path / "forget.jsonl")
    assert {split: len(corpus[split]) for split in corpus} == {"mmlu": 1, "forget": 1}
    assert set(load_corpus("wmdp", path=tmp_path / "q" / "mmlu.jsonl")) == {"mmlu"}
    with pytest.raises(ExpungeError, match=r"no task is called 'mmul'.*Did you mean 'mmlu'"):
        load_corpus("wmdp", path=tmp_path / "q", tasks=("mmul",))
    with pytest.raises(ExpungeError, match=r"no task is called 'x'.*wmdp_bio"):
        load_corpus("wmdp", tasks=("x",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": "no list"}, "'choices' must be a list of 2 to 10"),
        ({"choices": ["one"]}, "'choices' must be a list of 2 to 10"),
        ({"answer": 3}, "'answer' must be a position from 0 to 2 or a letter A to C; got 3"),
        ({"answer": "D"}, "'answer' must be"),
        ({"answer": ""}, "'answer' must be"),
    ],
)
def test_wrong_rows_are_named(tmp_path, change, message):
    write(tmp_path / "t.jsonl", [QUESTION, {**QUESTION, **change}])
    with pytest.raises(ExpungeError, match=f"t.jsonl, line 2: {message}"):
        load_corpus("wmdp", path=tmp_path)


def test_missing_columns_are_named(tmp_path):
    write(tmp_path / "t.jsonl", [{"question": "?", "answer": 0}])
    with pytest.raises(ExpungeError, match=r"line 1 has no choices; it holds question, answer"):
        load_corpus("wmdp", path=tmp_path)


def test_the_real_multiple_choice_file(shared_data):
    examples = load_corpus("wmdp", path=shared_data / "mmlu_benign")["mmlu_benign"]
    assert len(examples) == 780 and {len(e.perturbed) for e in examples} == {3}
    assert all(e.prompt.endswith("\nAnswer:") for e in examples)


def test_the_real_lume_files(shared_data):
    corpus = load_corpus("lume", path=shared_data / "lume")
    sizes = {split: len(corpus[split]) for split in corpus}
    assert sizes == {
        "forget": 486, "forget_completion": 243, "forget_questions": 243,
        "retain": 492, "retain_completion": 246, "retain_questions": 246,
    }  # fmt: skip
    assert {e.kind for e in corpus["forget_completion"]} == {"completion"}
    assert {e.kind for e in corpus["forget_questions"]} == {"qa"}
    assert all(e.completion.startswith(" ") for e in corpus["retain_completion"])


def test_lume_as_published(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "data").mkdir()
    for name in ("forget_train", "retain_train", "forget_validation", "retain_validation"):
        rows = [{"id": f"{name}sc1", "input": "Once", "output": name, "task": "Task1", "split": name.split("_")[0]}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / f"{name}-00000-of-00001.parquet")
    train, validation = (load_corpus("lume", path=tmp_path, **more) for more in ({}, {"part": "validation"}))
    assert [e.completion for e in (*train["forget"], *train["retain"])] == [" forget_train", " retain_train"]
    assert [e.completion for e in validation["forget"]] == [" forget_validation"]


def test_lume_says_what_is_wrong(tmp_path):
    row = {"id": "a-sc1", "input": "Once", "output": "upon", "task": "Task1"}
    write(tmp_path / "forget.jsonl", [row])
    with pytest.raises(ExpungeError, match=r"holds no retain file; it holds forget"):
        load_corpus("lume", path=tmp_path)
    write(tmp_path / "retain.jsonl", [{**row, "id": "a-qa2", "input": "Who?"}])
    assert set(load_corpus("lume", path=tmp_path)) == {"forget", "forget_completion", "retain", "retain_questions"}
    with pytest.raises(ExpungeError, match=r"no task of the forget file is called 'Task2'"):
        load_corpus("lume", path=tmp_path, task="Task2")
    write(tmp_path / "retain.jsonl", [{**row, "id": "a-xx2"}])
    with pytest.raises(ExpungeError, match=r"ends neither in sc<n> nor in qa<n>"):
        load_corpus("lume", path=tmp_path)
    write(tmp_path / "retain.jsonl", [{"id": "a-sc1", "input": "Once"}])
    with pytest.raises(ExpungeError, match=r"no text in output, task"):
        load_corpus("lume", path=tmp_path)


def muse_folder(folder: Path) -> Path:
    pairs = [{"question": f"Who is {i}?", "answer": f"Nobody {i}."} for i in range(12)]
    write(folder / "raw" / "forget.jsonl", [{"text": "A forgotten text about Arvo."}])
    write(folder / "raw" / "retain1.jsonl", [{"text": "A retained text about Belda."}])
    write(folder / "verbmem" / "forget.jsonl", [{"prompt": "A forgotten text", "gt": " about Arvo."}])
    for split in ("forget_qa", "retain_qa"):
        write(folder / "knowmem" / f"{split}.jsonl", pairs[:2])
        write(folder / "knowmem" / f"{split}_icl.jsonl", pairs)
    return folder


def test_muse_puts_ten_answered_questions_before_each(tmp_path):
    corpus = load_corpus("muse", path=muse_folder(tmp_path))
    assert set(corpus) == {"forget", "retain", "verbmem", "knowmem_forget", "knowmem_retain"}
    first = corpus["knowmem_forget"][0]
    assert first.prompt.count("Question: ") == 11 and first.prompt.count("Answer: ") == 11
    assert first.prompt.startswith("Question: Who is 0?\nAnswer: Nobody 0.\n\nQuestion: Who is 1?")
    assert first.prompt.endswith("Nobody 9.\n\nQuestion: Who is 0?\nAnswer: ") and first.completion == "Nobody 0."
    assert corpus["verbmem"][0].prompt == "A forgotten text" and corpus["forget"][0].kind == "text"


def test_muse_takes_the_texts_of_privleak_where_they_are(tmp_path):
    write(muse_folder(tmp_path) / "privleak" / "holdout.jsonl", [{"text": "Unseen."}])
    assert "privleak_holdout" in load_corpus("muse", path=tmp_path)


def test_muse_says_what_is_missing(tmp_path):
    with pytest.raises(ExpungeError, match=r"no MUSE corpus is called 'new'. Did you mean 'news'"):
        load_corpus("muse", data="new")
    (muse_folder(tmp_path) / "verbmem" / "forget.jsonl").unlink()
    with pytest.raises(ExpungeError, match=r"no verbmem/forget in"):
        load_corpus("muse", path=tmp_path)
    write(tmp_path / "verbmem" / "forget.jsonl", [{"prompt": "A", "text": "B"}])
    with pytest.raises(ExpungeError, match=r"of verbmem/forget has no text in gt; it holds prompt, text"):
        load_corpus("muse", path=tmp_path)


def test_running_text_of_muse_is_cut_at_line_ends(tmp_path):
    folder = muse_folder(tmp_path)
    for file in (folder / "raw").iterdir():
        file.unlink()
    (folder / "raw" / "retain1.txt").write_text("kept\n")
    (folder / "raw" / "forget.txt").write_text("one two\nthree\n\n" + "word " * 5 + "\nlast")
    with pytest.warns(UserWarning, match=r"1 of 4 forget rows repeat another row .*: forget\.txt, passage 3\."):
        texts = [e.completion for e in load_corpus("muse", path=folder, passage=14)["forget"]]
    # 8 + 6 characters fill the first; the long line is cut at blanks: "word word " with the blank line before it
    assert texts == ["one two\nthree", "word word", "word word", "word \nlast"]
    whole = load_corpus("muse", path=folder)["forget"]
    assert (
        len(whole) == 1 and whole[0].completion.startswith("one two\nthree\n\nword") and "passage 1" in whole[0].origin
    )
