"""Files, datasets and lists as rows; what is broken is named."""

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge.core.checks import ExpungeError
from expunge.data.reading import Row, read_dataset, read_file, read_json_lines, read_objects

ROWS = [{"question": "Où, “a” or b?", "n": 1}, {"question": "line\nbreak\u2028and more", "n": None}]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values(rows: list[Row]) -> list[dict]:
    return [dict(row.values) for row in rows]


def test_json_holds_an_array_of_objects(tmp_path):
    rows = read_file(written(tmp_path, "f.json", json.dumps(ROWS, indent=1)))
    assert values(rows) == ROWS
    assert [row.origin for row in rows] == ["f.json, entry 1", "f.json, entry 2"]


def test_json_lines_are_numbered_as_in_the_file(tmp_path):
    lines = [json.dumps(ROWS[0]), "", json.dumps(ROWS[1], ensure_ascii=False)]
    rows = read_file(written(tmp_path, "f.jsonl", "\r\n".join(lines) + "\n"))
    assert values(rows) == ROWS
    assert [row.origin for row in rows] == ["f.jsonl, line 1", "f.jsonl, line 3"]


def test_csv_holds_texts_with_commas_quotes_and_line_breaks(tmp_path):
    long = "x" * 200_000
    text = f'question,n\n"a, ""b""\r\nc",1\n\n{long},\n'
    rows = read_file(written(tmp_path, "f.csv", b"\xef\xbb\xbf" + text.encode()))
    assert values(rows) == [{"question": 'a, "b"\r\nc', "n": "1"}, {"question": long, "n": ""}]
    assert [row.origin for row in rows] == ["f.csv, row 1", "f.csv, row 2"]
    assert all(row.flat for row in rows)


def test_parquet_keeps_lists_and_nulls(tmp_path):
    content = [{"a": "one", "wrong": ["x", "y"]}, {"a": None, "wrong": None}]
    pq.write_table(pa.Table.from_pylist(content), tmp_path / "f.parquet")
    rows = read_file(tmp_path / "f.parquet")
    assert values(rows) == content
    assert rows[1].origin == "f.parquet, row 2"
    assert not rows[1].flat


def test_json_lines_are_read_whatever_the_suffix(tmp_path):
    assert values(read_json_lines(written(tmp_path, "f.json", '{"a": 1}\n{"a": 2}\n'))) == [{"a": 1}, {"a": 2}]


def test_a_missing_file_names_those_like_it(tmp_path):
    for name in ("forget.jsonl", "retain.jsonl", "notes.md"):
        written(tmp_path, name, "{}")
    with pytest.raises(ExpungeError, match=r"no file at '.*forgt\.jsonl'\. Did you mean 'forget\.jsonl'"):
        read_file(tmp_path / "forgt.jsonl")
    with pytest.raises(ExpungeError, match=r"no file at .* holds forget\.jsonl, retain\.jsonl\."):
        read_file(tmp_path / "abc.csv")
    with pytest.raises(ExpungeError, match=r"The folder '.*nowhere' is not there either"):
        read_file(tmp_path / "nowhere" / "f.csv")


def test_a_folder_is_no_file(tmp_path):
    written(tmp_path, "f.csv", "a\n1\n")
    with pytest.raises(ExpungeError, match=r"is a folder; name a file in it\. The folder .* holds f\.csv"):
        read_file(tmp_path)


def test_an_unknown_suffix_names_the_known(tmp_path):
    with pytest.raises(ExpungeError, match=r"'f\.tsv': cannot read \.tsv; known are \.json, .* \.txt"):
        read_file(written(tmp_path, "f.tsv", "a"))


@pytest.mark.parametrize("name", ["f.json", "f.jsonl", "f.csv", "f.parquet"])
def test_an_empty_file_is_an_error(tmp_path, name):
    with pytest.raises(ExpungeError, match=rf"{name}' is empty \(0 bytes\)"):
        read_file(written(tmp_path, name, ""))


@pytest.mark.parametrize("name, content", [("f.json", "[]"), ("f.jsonl", "\n \n"), ("f.csv", "question,answer\n")])
def test_a_file_without_rows_is_an_error(tmp_path, name, content):
    with pytest.raises(ExpungeError, match=rf"{name} holds no rows"):
        read_file(written(tmp_path, name, content))


def test_a_broken_json_line_is_named_with_the_parsers_words(tmp_path):
    path = written(tmp_path, "f.jsonl", '{"a": 1}\n\n{"a": 2,}\n')
    with pytest.raises(
        ExpungeError, match=r"f\.jsonl, line 3: broken JSON \(.+ at column \d+\)\. It reads '\{\"a\": 2,\}'"
    ):
        read_file(path)


def test_broken_json_names_its_line(tmp_path):
    with pytest.raises(ExpungeError, match=r"f\.json, line 2: broken JSON \(Expecting value at column 1\)\.$"):
        read_file(written(tmp_path, "f.json", '[{"a": 1},\n]'))


def test_json_lines_called_json_are_told_to_change_their_name(tmp_path):
    with pytest.raises(ExpungeError, match=r"line 2: .*Extra data.*one object a line\? Then call it \.jsonl"):
        read_file(written(tmp_path, "f.json", '{"a": 1}\n{"a": 2}'))


def test_an_object_around_the_array_is_not_guessed_at(tmp_path):
    with pytest.raises(
        ExpungeError, match=r"must hold an array of objects.*holds an object with the keys version, data"
    ):
        read_file(written(tmp_path, "f.json", '{"version": 1, "data": [{"a": 1}]}'))


@pytest.mark.parametrize(
    "name, content, place, came",
    [
        ("f.json", '[{"a": 1}, "b"]', "entry 2", r"a text \('b'\)"),
        ("f.jsonl", '{"a": 1}\n[1]', "line 2", r"an array \('\[1\]'\)"),
        ("f.jsonl", "null", "line 1", r"nothing \(null\)"),
    ],
)
def test_a_row_that_is_no_object_is_named(tmp_path, name, content, place, came):
    with pytest.raises(ExpungeError, match=rf"{name}, {place}: a row must be an object with named values; got {came}"):
        read_file(written(tmp_path, name, content))


def test_a_csv_row_with_too_many_cells_is_named(tmp_path):
    with pytest.raises(ExpungeError, match=r"f\.csv, row 2: 3 cells, but 2 columns \(q, a\).*double quotes"):
        read_file(written(tmp_path, "f.csv", "q,a\n1,2\n1,2,3\n"))


def test_csv_columns_of_the_same_name_are_refused(tmp_path):
    with pytest.raises(ExpungeError, match=r"f\.csv: more than one column is called q\."):
        read_file(written(tmp_path, "f.csv", "q,a,q\n1,2,3\n"))


def test_broken_csv_and_parquet_are_named(tmp_path):
    with pytest.raises(ExpungeError, match=r"f\.csv: broken CSV \(.*\)"):
        read_file(written(tmp_path, "f.csv", 'q\n"a"b\n'))
    with pytest.raises(ExpungeError, match=r"f\.parquet: broken Parquet"):
        read_file(written(tmp_path, "f.parquet", "no parquet"))


def test_what_is_not_utf8_is_named(tmp_path):
    with pytest.raises(ExpungeError, match=r"f\.csv is not UTF-8 text \(byte 3: .*Save it as UTF-8"):
        read_file(written(tmp_path, "f.csv", "q\nä\n".encode("latin-1").replace(b"q\n", b"qq\n")))


def test_lists_datasets_and_generators_are_rows():
    content = [{"a": "one"}, {"a": "two"}]
    for given in (content, tuple(content), datasets.Dataset.from_list(content), (row for row in content)):
        rows = read_objects(given, "forget")
        assert values(rows) == content
        assert [row.origin for row in rows] == ["forget, entry 1", "forget, entry 2"]


def test_what_is_no_list_of_rows_is_refused():
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_list([{"a": "one"}])})
    with pytest.raises(ExpungeError, match=r"forget must be a list .* got a DatasetDict with the keys train"):
        read_objects(splits, "forget")
    with pytest.raises(ExpungeError, match=r"forget must be a path, .* got int"):
        read_objects(3, "forget")
    with pytest.raises(ExpungeError, match="forget holds no rows"):
        read_objects([], "forget")
    with pytest.raises(ExpungeError, match=r"forget, entry 2: a row must be an object .* got a text"):
        read_objects([{"a": 1}, "b"], "forget")


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the network; `calls` tells what was asked for."""
    calls = []
    one, two = (datasets.Dataset.from_list([{"a": text}]) for text in ("one", "two"))

    def load_dataset(identifier, config=None, *, split=None):
        calls.append((identifier, config, split))
        if identifier == "nobody/nothing":
            raise FileNotFoundError("Dataset 'nobody/nothing' doesn't exist on the Hub")
        if identifier == "somebody/single":
            return datasets.DatasetDict({"train": one})
        return datasets.DatasetDict({"train": one, "test": two}) if split is None else two

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_a_dataset_is_found_by_id_split_and_config(hub):
    rows = read_dataset("somebody/something:test")
    assert values(rows) == [{"a": "two"}]
    assert rows[0].origin == "somebody/something:test, row 1"
    read_dataset("somebody/something:hard:test")
    read_dataset("somebody/single")
    assert hub == [
        ("somebody/something", None, "test"),
        ("somebody/something", "hard", "test"),
        ("somebody/single", None, None),
    ]


def test_a_dataset_with_several_splits_needs_one_named(hub):
    with pytest.raises(ExpungeError, match="has the splits train, test; name one: somebody/something:train"):
        read_dataset("somebody/something")


def test_a_dataset_that_cannot_be_had_is_an_error(hub):
    with pytest.raises(ExpungeError, match=r"'nobody/nothing' is neither a file here nor a dataset .* doesn't exist"):
        read_dataset("nobody/nothing")
    with pytest.raises(ExpungeError, match="a dataset is named as id, id:split or id:config:split"):
        read_dataset("a/b:c:d:e")


def test_a_text_file_holds_a_text_a_line(tmp_path):
    rows = read_file(written(tmp_path, "f.txt", "First, with commas.\n\n  Second.\n"))
    assert values(rows) == [{"text": "First, with commas."}, {"text": "  Second."}]
    assert rows[1].origin == "f.txt, line 3"
