"""Files, datasets and lists as rows; what is broken is named."""

import gzip
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge.core.checks import ExpungeError
from expunge.data import formats
from expunge.data.reading import read_dataset, read_file, read_objects
from expunge.data.row import Row

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
    for name in ("f.json", "f.jsonl", "f.ndjson"):
        rows = read_file(written(tmp_path, name, '{"a": 1}\n{"a": 2}'))  # no line feed after the last
        assert values(rows) == [{"a": 1}, {"a": 2}]
        assert rows[1].origin == f"{name}, line 2"
    assert values(read_file(written(tmp_path, "f.json", '{"a": [1]}\n'))) == [{"a": [1]}]
    assert values(read_file(written(tmp_path, "f.jsonl", '[\n{"a": 1},\n{"a": 2}\n]\n'))) == [{"a": 1}, {"a": 2}]


def test_a_missing_file_names_those_like_it(tmp_path):
    for name in ("forget.jsonl", "retain.jsonl", "notes.md"):
        written(tmp_path, name, "{}")
    with pytest.raises(ExpungeError, match=r"no file at '.*forgt\.jsonl'\. Did you mean 'forget\.jsonl'"):
        read_file(tmp_path / "forgt.jsonl")
    with pytest.raises(ExpungeError, match=r"no file at .* holds forget\.jsonl, retain\.jsonl\."):
        read_file(tmp_path / "abc.csv")
    with pytest.raises(ExpungeError, match=r"The folder '.*nowhere' is not there either"):
        read_file(tmp_path / "nowhere" / "f.csv")


def test_a_folder_is_all_of_its_files(tmp_path):
    for name, content in (("b.csv", "a\n2\n"), ("a.jsonl", '{"a": "1"}'), ("notes.md", "x"), (".hidden.csv", "a\n3\n")):
        written(tmp_path, name, content)
    with pytest.warns(UserWarning, match=r"read as one set, of a\.jsonl, b\.csv; not read: notes\.md\."):
        rows = read_file(tmp_path)
    assert values(rows) == [{"a": "1"}, {"a": "2"}]
    assert [row.origin for row in rows] == ["a.jsonl, line 1", "b.csv, row 1"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExpungeError, match=r"empty' is a folder without a data file"):
        read_file(tmp_path / "empty")


def test_a_folder_of_a_saved_dataset_is_read(tmp_path):
    content = [{"a": "one", "b": ["x"]}, {"a": "two", "b": []}]
    datasets.Dataset.from_list(content).save_to_disk(tmp_path / "saved")
    rows = read_file(tmp_path / "saved")
    assert values(rows) == content
    assert rows[1].origin == "saved, row 2"
    assert values(read_file(next((tmp_path / "saved").glob("*.arrow")))) == content
    both = datasets.DatasetDict({name: datasets.Dataset.from_list(content) for name in ("test", "train")})
    both.save_to_disk(tmp_path / "splits")
    with pytest.raises(ExpungeError, match=r"splits test, train\. Name the folder of one: .*splits/test"):
        read_file(tmp_path / "splits")
    assert values(read_file(tmp_path / "splits" / "train")) == content


def test_compressed_files_are_read_as_what_they_hold(tmp_path):
    for name, plain in (("f.jsonl", b'{"a": "1"}'), ("f.csv", b"a\n1\n")):
        for suffix, compression in ((".gz", "gzip"), (".zst", "zstd")):
            with pa.output_stream(str(tmp_path / (name + suffix)), compression=compression) as stream:
                stream.write(plain)
            assert values(read_file(tmp_path / (name + suffix))) == [{"a": "1"}]
    with pytest.raises(ExpungeError, match=r"g\.jsonl\.gz: broken gzip content"):
        read_file(written(tmp_path, "g.jsonl.gz", "plain"))


@pytest.mark.parametrize("sign, words", [(";", "';'"), ("\t", "tabs"), ("|", r"'\|'")])
def test_other_separators_are_found_and_said(tmp_path, sign, words):
    text = f'question{sign}answer\n"Who, and{sign} when?"{sign}He, then.\n'
    with pytest.warns(UserWarning, match=rf"f\.csv: read with {words} between its cells"):
        rows = read_file(written(tmp_path, "f.csv", text))
    assert values(rows) == [{"question": f"Who, and{sign} when?", "answer": "He, then."}]
    assert values(read_file(written(tmp_path, "h.csv", f"sep={sign}\r\n{text}"))) == values(rows)
    assert values(read_file(written(tmp_path, "g.tsv", text.replace(sign, "\t")))) == [
        {"question": "Who, and\t when?", "answer": "He, then."}
    ]


def test_an_unknown_suffix_names_the_known(tmp_path):
    with pytest.raises(
        ExpungeError, match=r"'f\.xlsx': cannot read \.xlsx; known are \.json, .* \.txt, each also .*\.gz"
    ):
        read_file(written(tmp_path, "f.xlsx", "a"))


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


def test_a_key_that_stands_twice_in_a_row_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a?", "answer": "right", "answer": "wrong"}\n')
    with pytest.raises(ExpungeError, match=r"line 1: the key 'answer' stands twice"):
        read_file(path)


def test_broken_json_names_its_line(tmp_path):
    with pytest.raises(ExpungeError, match=r"f\.json, line 2: broken JSON \(Expecting value at column 1\)\.$"):
        read_file(written(tmp_path, "f.json", '[{"a": 1},\n]'))


def test_files_that_were_joined_without_a_line_feed_are_told_so(tmp_path):
    for name in ("f.json", "f.jsonl"):
        path = written(tmp_path, name, '{"a": 1}\n{"a": 2}{"a": 3}\n{"a": 4}\n')
        with pytest.raises(
            ExpungeError, match=r"line 2: two JSON objects on one line; the second begins at column 9\. .*joi"
        ):
            read_file(path)


@pytest.mark.parametrize("content", ['{\n"a": 1\n}\n{\n"a": 2\n}', '[{"a": 1}]\n[{"a": 2}]'])
def test_values_one_after_the_other_are_no_json_file(tmp_path, content):
    with pytest.raises(ExpungeError, match=r"Extra data .* put all rows into one array, or each on one line"):
        read_file(written(tmp_path, "f.json", content))


def test_all_broken_lines_are_named_at_once(tmp_path):
    path = written(tmp_path, "f.jsonl", '{"a": 1}\n{"a": 2,}\n[3]\n')
    with pytest.raises(
        ExpungeError,
        match=r"(?s)2 of 3 rows of f\.jsonl cannot be used:\n  f\.jsonl, line 2: broken.*\n  f\.jsonl, line 3: a row",
    ):
        read_file(path)
    with pytest.raises(ExpungeError, match=r"(?s)2 of 3 rows of f\.csv .*row 1: 1 cells.*row 3: 3 cells"):
        read_file(written(tmp_path, "f.csv", "q,a\n1\n1,2\n1,2,3\n"))


def test_json_that_no_parser_takes_is_an_error(tmp_path):
    with pytest.raises(ExpungeError, match=r"f\.jsonl, line 1: its values nest too deep"):
        read_file(written(tmp_path, "f.jsonl", '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}"))
    with pytest.raises(ExpungeError, match=r"f\.json: a number in it is too long"):
        read_file(written(tmp_path, "f.json", '[{"a": ' + "1" * 5000 + "}]"))


def test_lines_end_at_line_feeds_alone(tmp_path):
    rows = read_file(written(tmp_path, "f.txt", "one\u2028still one\x0b, still\r\ntwo"))
    assert values(rows) == [{"text": "one\u2028still one\x0b, still"}, {"text": "two"}]


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


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "LARGEST", 10_000)
    (tmp_path / "f.txt.gz").write_bytes(gzip.compress(b"one text again and again\n" * 1000))
    pq.write_table(pa.Table.from_pylist([{"a": "one text"}] * 3000), tmp_path / "f.parquet")
    for name in ("f.txt.gz", "f.parquet"):
        with pytest.raises(ExpungeError, match=rf"{name}, of 0\.0 MB, unpacks to more than 0 GB"):
            read_file(tmp_path / name)
