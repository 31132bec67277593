"""Records: rows, views, accessors, files."""

import numpy as np
import pyarrow as pa
import pytest

from expunge.core.checks import ExpungeError
from expunge.results.records import Records
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
