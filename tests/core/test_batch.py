"""Padding: shapes, masks and labels."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge.core.batch import Encoded, collate
from expunge.core.logprobs import IGNORED


def test_two_rows_by_hand():
    batch = collate([Encoded((5, 6, 7), 1, True, 0), Encoded((8, 9), 1, True, 0)], pad_id=4, index=[3, 0])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [IGNORED, 9, IGNORED]]
    assert batch["index"].tolist() == [3, 0]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


ids = st.lists(st.integers(0, 9), min_size=2, max_size=8)
rows = ids.flatmap(lambda i: st.tuples(st.just(tuple(i)), st.integers(1, len(i) - 1)))


@given(st.lists(rows, min_size=1, max_size=5), st.integers(0, 9))
def test_every_row_can_be_read_back(drawn, pad_id):
    """Also where a row holds the padding id, as when the end token pads."""
    encoded = [Encoded(ids, start, ended=True, truncated=0) for ids, start in drawn]
    batch = collate(encoded, pad_id=pad_id)
    width = max(len(row.ids) for row in encoded)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["labels"].shape == (len(encoded), width)
    assert "index" not in batch
    for i, row in enumerate(encoded):
        n = len(row.ids)
        assert batch["attention_mask"][i].tolist() == [1] * n + [0] * (width - n)
        assert tuple(batch["input_ids"][i, :n].tolist()) == row.ids
        assert batch["input_ids"][i, n:].tolist() == [pad_id] * (width - n)
        supervised = batch["labels"][i] != IGNORED
        assert supervised.nonzero().flatten().tolist() == list(range(row.start, n))
        assert batch["labels"][i][supervised].tolist() == list(row.ids[row.start :])
