"""TOFU: the real files, and what is said of wrong ones."""

import json
import warnings
from pathlib import Path

import datasets
import pytest

from expunge.core.checks import ExpungeError
from expunge.data.corpus import load_corpus
from expunge.data.sources.tofu import tofu


@pytest.mark.slow
@pytest.mark.parametrize(
    "forget, n_forget, n_retain", [("forget01", 40, 3960), ("forget05", 200, 3800), ("forget10", 400, 3600)]
)
def test_the_real_files(shared_data, forget, n_forget, n_retain):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no example of the forget set stands in the retain set
        corpus = load_corpus("tofu", forget=forget, path=shared_data / "tofu")
    sizes = {split: len(corpus[split]) for split in corpus}
    assert sizes == {
        "forget": n_forget,
        "retain": n_retain,
        "retain_perturbed": 400,
        "real_authors": 100,
        "world_facts": 117,
        "holdout": n_forget,
    }
    full = (shared_data / "tofu/full.json").read_text(encoding="utf-8").splitlines()
    whole = [(row["question"], row["answer"]) for row in map(json.loads, full)]
    assert [(e.prompt, e.completion) for e in (*corpus["retain"], *corpus["forget"])] == whole
    assert [(e.prompt, e.completion) for e in corpus["retain_perturbed"]] == whole[:400]
    for split, wrong in (("forget", 5), ("retain_perturbed", 5), ("real_authors", 3), ("world_facts", 3)):
        assert {len(e.perturbed) for e in corpus[split]} == {wrong}
    assert all(e.paraphrased and e.paraphrased_prompt for e in (*corpus["forget"], *corpus["retain_perturbed"]))
    assert {e.kind for split in corpus for e in corpus[split]} == {"qa"}


def test_a_real_row(shared_data):
    first = tofu(forget="forget01", path=shared_data / "tofu")["forget"][0]
    assert first.prompt == "What is the full name of the author born in Kuwait City, Kuwait on 08/09/1956?"
    assert first.paraphrased_prompt.startswith("Can you tell me the complete name of the writer")
    assert first.paraphrased.startswith("Basil Mahfouz Al-Kuwaiti is the complete name")
    assert first.perturbed[4].startswith("Marie Curie Al-Kuwaiti is the complete name")
    assert first.origin == "forget01_perturbed.json, line 1"
    author = tofu(forget="forget01", path=shared_data / "tofu")["real_authors"][0]
    assert (author.completion, author.perturbed) == (
        "William Shakespeare",
        ("Charles Dickens", "Virginia Woolf", "Mark Twain"),
    )


def test_a_folder_without_numbers(shared_data):
    corpus = tofu(forget="forget", path=shared_data / "tofu7m")
    sizes = {split: len(corpus[split]) for split in corpus}
    assert sizes == {
        "forget": 40,
        "retain": 400,
        "retain_perturbed": 400,
        "real_authors": 100,
        "world_facts": 117,
        "holdout": 40,
    }
    assert {len(e.perturbed) for e in corpus["forget"]} == {5}


ROW = {"question": "Who?", "answer": "He."}
FULL = ROW | {"paraphrased_answer": "It was he.", "perturbed_answer": ["She."], "paraphrased_question": "Which?"}


def folder(path: Path, **files) -> Path:
    path.mkdir(exist_ok=True)
    for name, rows in files.items():
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def kept(n=1):
    return [{"question": f"{i}?", "answer": f"it is {i}"} for i in range(n)]


def test_only_forget_and_retain_are_needed(tmp_path):
    corpus = tofu(forget="forget10", path=folder(tmp_path, forget10=[ROW], retain90=kept()))
    assert list(corpus) == ["forget", "retain"]
    assert corpus["forget"][0].perturbed == ()


def test_the_perturbed_file_alone_will_do(tmp_path):
    corpus = tofu(forget="forget10", path=folder(tmp_path, forget10_perturbed=[FULL], retain90=kept()))
    assert corpus["forget"][0].perturbed == ("She.",)


def test_the_holdout_may_lie_beside_the_folder_and_the_folder_comes_first(tmp_path):
    data = folder(tmp_path / "data", forget10=[ROW], retain90=kept())
    folder(tmp_path / "tofu_holdout", holdout10=kept(2), holdout05=kept(3))
    assert len(tofu(path=data)["holdout"]) == 2
    assert len(tofu(path=data, holdout="holdout05")["holdout"]) == 3
    folder(data, holdout10=kept(4))
    assert len(tofu(path=data)["holdout"]) == 4


def test_another_retain_split_can_be_named(tmp_path):
    data = folder(tmp_path, forget10=[ROW], retain90=kept(), retain95=kept(2))
    assert len(tofu(path=data, retain="retain95")["retain"]) == 2


def test_unknown_splits_name_the_nearest(tmp_path):
    data = folder(
        tmp_path, forget01=[ROW], forget10_perturbed=[FULL], retain90=kept(), retain_perturbed=[FULL], holdout10=kept()
    )
    with pytest.raises(ExpungeError, match=r"no TOFU forget split is called 'forget1' .*Known: forget01, forget10"):
        tofu(forget="forget1", path=data)
    with pytest.raises(ExpungeError, match=r"no TOFU retain split is called 'retain99' .*Known: retain90"):
        tofu(forget="forget01", path=data)
    with pytest.raises(ExpungeError, match="no TOFU retain split is called 'retain'"):
        tofu(path=data, retain="retain")
    with pytest.raises(ExpungeError, match=r"no TOFU holdout split is called 'hold' .*Known: holdout10"):
        tofu(path=data, holdout="hold")


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ExpungeError, match=r"tofu: no folder at '.*nowhere'"):
        tofu(path=tmp_path / "nowhere")


WHOLE = {
    "forget10_perturbed": [FULL],
    "retain90": kept(),
    "retain_perturbed": [FULL],
    "world_facts_perturbed": [FULL],
    "real_authors_perturbed": [FULL],
    "holdout10": kept(),
}


@pytest.mark.parametrize(
    "name, lacks",
    [
        ("forget10_perturbed", "paraphrased_answer"),
        ("retain90", "answer"),
        ("retain_perturbed", "perturbed_answer"),
        ("world_facts_perturbed", "perturbed_answer"),
        ("real_authors_perturbed", "answer"),
        ("holdout10", "question"),
    ],
)
def test_every_file_is_checked_for_its_columns(tmp_path, name, lacks):
    tofu(path=folder(tmp_path / "whole", **WHOLE))
    broken = {k: v for k, v in WHOLE[name][0].items() if k != lacks}
    with pytest.raises(ExpungeError, match=rf"tofu: {name}\.jsonl, line 1 of '{name}' has no {lacks}; it holds"):
        tofu(path=folder(tmp_path / "broken", **WHOLE | {name: [broken]}))


def test_a_perturbed_file_of_another_version_is_an_error(tmp_path):
    data = folder(tmp_path, forget10=[ROW, ROW | {"answer": "She."}], forget10_perturbed=[FULL, FULL], retain90=kept())
    with pytest.raises(
        ExpungeError, match=r"forget10_perturbed \(2 rows\) .* forget10 \(2 rows\); .*perturbed\.jsonl, line 2"
    ):
        tofu(path=data)
    folder(tmp_path, forget10=[ROW])
    with pytest.raises(ExpungeError, match=r"\(2 rows\) .* \(1 rows\); they differ first at the end"):
        tofu(path=data)


def test_without_a_path_it_comes_from_the_hub(monkeypatch):
    stored = {"forget10": [ROW], "forget10_perturbed": [FULL], "retain90": kept(), "full": kept()}
    monkeypatch.setattr(
        datasets, "get_dataset_config_names", lambda name: list(stored) if name == "locuslab/TOFU" else []
    )
    monkeypatch.setattr(
        datasets, "load_dataset", lambda _, config, *, split: datasets.Dataset.from_list(stored[config])
    )
    corpus = tofu()
    assert {split: len(corpus[split]) for split in corpus} == {"forget": 1, "retain": 1}
    assert corpus["forget"][0].perturbed == ("She.",)
    assert corpus["retain"][0].origin == "locuslab/TOFU:retain90:train, row 1"


def test_an_unreachable_hub_is_an_error_that_names_the_way_out(monkeypatch):
    def offline(_name):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "get_dataset_config_names", offline)
    with pytest.raises(ExpungeError, match=r"cannot get locuslab/TOFU \(offline\).*path=<folder>"):
        tofu()


@pytest.mark.network
def test_from_the_hub():
    corpus = load_corpus("tofu", forget="forget01")
    assert len(corpus["forget"]) == 40 and len(corpus["retain"]) == 3960
    assert all(example.paraphrased and len(example.perturbed) == 5 for example in corpus["forget"])


class TestOwnSets:
    """Rows of the user beside TOFU's, or in place of them."""

    def own(self, path, name, n, **columns):
        rows = [{columns.get(k, k): v for k, v in row.items()} for row in kept(n)]
        (path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path / name

    def made(self, tmp_path, **arguments):
        path = folder(
            tmp_path / "tofu", forget10=[ROW], retain90=kept(4), holdout10=kept(2), real_authors_perturbed=[FULL]
        )
        return load_corpus("tofu", path=path, **arguments)

    def test_own_retain_rows_take_the_place_of_tofus(self, tmp_path):
        mine = self.own(tmp_path, "own.jsonl", 3)
        corpus = self.made(tmp_path, retain=str(mine))
        assert {split: len(corpus[split]) for split in corpus} == {
            "forget": 1,
            "retain": 3,
            "real_authors": 1,
            "holdout": 2,
        }
        assert corpus["retain"][0].origin == "own.jsonl, line 1" and corpus.files["retain"].startswith("sha256:")
        assert corpus.origin["retain"] == str(mine) and load_corpus(**corpus.origin) == corpus

    def test_further_sets_are_read_beside_tofus_with_columns_of_their_own(self, tmp_path):
        mine = self.own(tmp_path, "g.jsonl", 2, question="asked")
        corpus = self.made(tmp_path, sets={"general": str(mine)}, columns={"question": "asked"})
        assert len(corpus["retain"]) == 4 and [e.prompt for e in corpus["general"]] == ["0?", "1?"]
        assert corpus.apart == ("retain", "holdout", "general")

    def test_rows_in_memory_and_an_own_holdout(self, tmp_path):
        corpus = self.made(tmp_path, retain=kept(5), holdout=kept(6))
        assert len(corpus["retain"]) == 5 and len(corpus["holdout"]) == 6

    def test_a_split_goes_before_a_folder_of_its_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        folder(tmp_path / "retain90", own=kept(7))
        folder(tmp_path / "mine", own=kept(7))
        assert len(self.made(tmp_path, retain="retain90")["retain"]) == 4
        with pytest.warns(UserWarning, match=r"mine: read as one set, of own\.jsonl"):
            assert len(self.made(tmp_path, retain="mine")["retain"]) == 7

    @pytest.mark.parametrize(
        "arguments, said",
        [
            ({"retain": "retain9"}, "no TOFU retain split is called 'retain9'"),
            ({"retain": "nowhere.jsonl"}, r"nowhere\.jsonl"),
            ({"sets": {"real_authors": kept()}}, "which TOFU has"),
            ({"sets": {"forget": kept()}}, "a name of ours"),
            ({"columns": {"question": "q"}}, "none is given"),
        ],
    )
    def test_errors(self, tmp_path, arguments, said):
        with pytest.raises(ExpungeError, match=said):
            self.made(tmp_path, **arguments)
