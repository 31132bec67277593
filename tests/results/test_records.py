"""Records: rows, views, accessors, files."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge.core.checks import ExpungeError
from expunge.results.records import DamagedRecords, Records
from made_records import MANIFEST, certain, records, rows, view


def test_a_view_is_sorted_by_index_and_number():
    some = records(
        rows(certain(0.1, 0.2, 0.3), index=[1, 0, 1], number=[1, 0, 0], answer="perturbed"),
        rows(certain(0.5), split="retain"),
    )
    assert some.splits == ["forget", "retain"]
    found = some.where(split="forget", answer="perturbed")
    assert list(zip(found.column("index"), found.column("number"), strict=True)) == [(0, 0), (1, 0), (1, 1)]
    assert found.probabilities() == pytest.approx([0.2, 0.3, 0.1])
    assert len(some.where(split="elsewhere")) == 0 and len(some) == 4


def test_token_values():
    some = view([[-1.0, -3.0], [-2.0, -2.0, -5.0]], hits=[[True, False], [False, False, True]], ended=[False, True])
    assert some.mean_losses() == pytest.approx([2, 3])
    assert some.probabilities() == pytest.approx(np.exp([-2, -3]))
    assert some.token_counts().tolist() == [2, 3]
    assert [v.tolist() for v in some.bodies("logprobs")] == [[-1, -3], [-2, -2]]
    assert [v.tolist() for v in some.bodies("hits")] == [[True, False], [False, False]]
    assert [len(v) for v in some.bodies("logprobs", "as_reference")] == [1, 2]
    assert some.arrays("hits")[0].dtype == np.bool_ and some.arrays("logprobs")[0].dtype == np.float64


def test_a_sliced_and_filtered_table_keeps_its_rows_apart():
    some = records(rows([[-1.0], [-2.0, -3.0]]), rows([[-4.0, -5.0, -6.0], [-7.0]], split="retain"))
    tail = Records(some.table.slice(1, 2), MANIFEST)
    assert [v.tolist() for v in tail.arrays("logprobs")] == [[-2, -3], [-4, -5, -6]]
    both = Records(pa.concat_tables([tail.table, some.table.slice(3)]), MANIFEST)
    assert [v.tolist() for v in both.arrays("logprobs")] == [[-2, -3], [-4, -5, -6], [-7]]


def test_numbers_of_a_log_stand_in_for_tokens():
    table = pa.table(
        {
            "split": ["forget"] * 2,
            "index": [0, 1],
            "asked": ["question"] * 2,
            "answer": ["answer"] * 2,
            "number": [0, 0],
            "avg_loss": [1.0, 2.0],
            "probability": [0.37, None],
        }
    )
    some = Records(table, MANIFEST)
    assert some.mean_losses().tolist() == [1, 2]
    assert some.probabilities() == pytest.approx(np.exp([-1, -2]))  # one row has no probability, so none is taken
    first = Records(table.slice(0, 1), MANIFEST)
    assert first.probabilities().tolist() == [0.37]
    with pytest.raises(ExpungeError, match="1 of 2 rows of these records have no probability"):
        some.numbers("probability")
    with pytest.raises(ExpungeError, match="no column 'hits'; they hold split"):
        some.arrays("hits")


def test_has_asks_for_every_row():
    some = view(certain(0.1, 0.2), generation=["said", None])
    assert some.has("logprobs") and not some.has("generation") and not some.has("avg_loss")
    assert not some.where(split="elsewhere").has("logprobs")


def test_rows_without_tokens_are_errors():
    with pytest.raises(
        ExpungeError, match=r"example 1 of split 'forget' \(completion: answer\) has no completion token"
    ):
        view([[-1.0], []]).mean_losses()
    with pytest.raises(ExpungeError, match="has no completion token in 'logprobs'"):
        view([[-1.0], None], hits=[[True], [True]]).arrays("logprobs")


def test_tables_that_are_no_records_are_refused():
    with pytest.raises(ExpungeError, match=r"lack the columns \['index', 'asked', 'answer', 'number'\]"):
        Records(pa.table({"split": ["forget"]}), MANIFEST)


def test_save_and_load(tmp_path):
    some = view([[-1.0, -3.0]], generation=["said"], completion=["the answer"])
    some.save(tmp_path / "deep" / "er")
    again = Records.load(tmp_path / "deep" / "er")
    assert again.table.equals(some.table) and again.manifest == some.manifest
    with pytest.raises(ExpungeError, match="Make them: expunge evaluate"):
        Records.load(tmp_path)


def test_damaged_records_are_an_error_that_names_the_cure(tmp_path):
    path = view(certain(0.5, 0.25), generation=["said", "more"]).save(tmp_path) / "records.parquet"
    whole = path.read_bytes()
    page, name = whole.index(b"said"), whole.index(b"generation")
    changed = [whole[:at] + b"X" + whole[at + 1 :] for at in (page, name)]
    for broken in (b"", whole[: len(whole) // 2], *changed):
        path.write_bytes(broken)
        with pytest.raises(DamagedRecords, match=r"are damaged, or .*--overwrite"):
            Records.load(tmp_path)
    pq.write_table(view(certain(0.5)).table, path)
    with pytest.raises(DamagedRecords, match="it holds no manifest"):
        Records.load(tmp_path)


def test_a_full_disk_leaves_the_records_that_were_there(tmp_path, monkeypatch):
    first = view(certain(0.5))
    first.save(tmp_path)

    def full(_writer, _table, **_how):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        view(certain(0.25)).save(tmp_path)
    assert Records.load(tmp_path).table.equals(first.table)
    assert [path.name for path in tmp_path.iterdir()] == ["records.parquet"]


@pytest.mark.parametrize("texts", ["hash", "drop"])
def test_records_without_texts(texts, tmp_path):
    some = view(certain(0.5, 0.25), completion=["the secret", "more"], generation=["it is told", "no"])
    table = some.table.set_column(
        some.table.column_names.index("tokens"), "tokens", pa.array([[1, 2], None], pa.list_(pa.int32()))
    )
    some = Records(table, MANIFEST)
    path = some.with_texts(texts).save(tmp_path) / "records.parquet"
    again = Records.load(tmp_path)
    assert not any(text in path.read_bytes() for text in (b"secret", b"told", b"question 1"))
    assert again.texts == texts and some.texts == "keep" and again.column("completion") == [None, None]
    assert again.column("tokens") == [None, None] and again.mean_losses().tolist() == some.mean_losses().tolist()
    assert again.compressed_sizes().tolist() == some.compressed_sizes().tolist()
    assert again.column("key") == some.column("key")
    hashes = [name for name in again.table.column_names if name.endswith("_sha256")]
    assert len(hashes) == (3 if texts == "hash" else 0)
    if texts == "hash":
        assert again.column("completion_sha256")[0] == f"sha256:{hashlib.sha256(b'the secret').hexdigest()}"
    assert some.with_texts("keep") is some
