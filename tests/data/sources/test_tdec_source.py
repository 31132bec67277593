"""The extraction challenge's files: token ids become the text they spell, and what is wrong with them is told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import load_corpus
from expunge.data.tokenizing import encode

TEXTS = ("Ada lives in a house.", "Ben lives in a boat.", "Cleo lives by the sea.", "Dora writes a long book.")


@pytest.fixture
def arrays(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder with a tokenizer and its ids of four texts, eight tokens each, cut into two arrays."""
    tokenizer = zoo.tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    ids = np.array([tokenizer(text * 8, add_special_tokens=False)["input_ids"][:8] for text in TEXTS], dtype=np.uint16)
    np.save(tmp_path / "prefix.npy", ids[:, :5])
    np.save(tmp_path / "suffix.npy", ids[:, 5:])
    return tmp_path, ids


def load(folder: Path, **changes: Any) -> Any:
    given = {"forget": "prefix.npy+suffix.npy", "array_tokenizer": folder / "tokenizer", "sequences": 2} | changes
    return load_corpus("tdec", path=folder, **given)


def test_arrays_of_ids_become_the_text_that_has_them(arrays: tuple[Path, np.ndarray]) -> None:
    folder, ids = arrays
    for skip in (0, 2):
        corpus = load(folder, skip=skip)
        rows = encode(corpus["forget"], zoo.tokenizer())
        begun = len(rows[0].ids) - 8  # a beginning token, where the tokenizer writes one
        assert [row.ids[begun:] for row in rows] == [tuple(row) for row in ids[skip : skip + 2].tolist()]
        assert all(e.kind == "text" for e in corpus["forget"])
    assert corpus["forget"][0].origin == "prefix.npy, row 3"


def test_texts_of_files_and_sets_beside_them(arrays: tuple[Path, np.ndarray]) -> None:
    folder, _ = arrays
    lines = [f'{n},books,"{text}"' for n, text in enumerate(TEXTS)]
    (folder / "texts.csv").write_text("doc_id,corpus,text\n" + "\n".join(lines) + "\n")
    with pytest.warns(UserWarning, match="2 of 2 forget examples are in the holdout set too"):
        corpus = load(folder, forget="texts.csv", holdout="texts.csv", retain="suffix.npy", skip=1)
    assert [e.completion for e in corpus["forget"]] == list(TEXTS[1:3])
    assert len(corpus["holdout"]) == 4 and len(corpus["retain"]) == 4
    renamed = (folder / "texts.csv").read_text().replace("corpus,text", "corpus,passage")
    (folder / "passages.csv").write_text(renamed)
    assert load(folder, forget="passages.csv", columns={"text": "passage"})["forget"][0].completion == TEXTS[0]


def test_a_file_whose_name_holds_a_plus_is_one_file(arrays: tuple[Path, np.ndarray]) -> None:
    folder, _ = arrays
    (folder / "facts+lives.txt").write_text("\n".join(TEXTS) + "\n")
    assert [e.completion for e in load(folder, forget="facts+lives.txt")["forget"]] == list(TEXTS[:2])
    found = load_corpus("tdec", forget=folder / "facts+lives.txt", sequences=2)
    assert [e.completion for e in found["forget"]] == list(TEXTS[:2])


def test_what_is_wrong_is_told(arrays: tuple[Path, np.ndarray]) -> None:
    folder, ids = arrays
    np.save(folder / "floats.npy", ids.astype(float))
    np.save(folder / "short.npy", ids[:3])
    np.save(folder / "beyond.npy", ids + 60000)
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for changes, message in (
        ({"array_tokenizer": None}, "prefix.npy holds token ids. Name the tokenizer"),
        ({"forget": "floats.npy"}, r"floats.npy must hold whole numbers, \[sequences, tokens\]; it holds float64"),
        ({"forget": "prefix.npy+short.npy"}, "these have prefix.npy 4, short.npy 3"),
        ({"forget": "beyond.npy"}, "beyond.npy holds ids from 60"),
        ({"forget": "objects.npy"}, "cannot read objects.npy as an array of numbers.*allow_pickle=False"),
        ({"forget": "none.npy"}, "no file at"),
        ({"forget": "prefix.npy+texts.csv"}, "it must be all arrays"),
        ({"skip": 3}, "sequences=2 after skip=3 need 5 texts, and prefix.npy.suffix.npy holds 4"),
    ):
        with pytest.raises(ExpungeError, match=message):
            load(folder, **changes)


def test_ids_that_no_text_gives_are_counted(arrays: tuple[Path, np.ndarray]) -> None:
    folder, ids = arrays
    letters = zoo.tokenizer().convert_tokens_to_ids(list("Adalives"))
    odd = np.concatenate([ids[:1], np.array([letters])])
    np.save(folder / "odd.npy", odd)
    with pytest.warns(UserWarning, match=r"1 of 2 rows of odd.npy are cut into other tokens"):
        load(folder, forget="odd.npy")
