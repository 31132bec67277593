"""Multiple choice, relative differences and WAGLE's measures, by hand; UT with a real embedder too."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from expunge.core.checks import ExpungeError
from expunge.evaluation import judges
from expunge.evaluation.metrics._wagle import resampled_difference
from expunge.evaluation.metrics.multiple_choice_accuracy import multiple_choice_accuracy
from expunge.evaluation.metrics.relative_difference import relative_difference
from expunge.evaluation.metrics.wagle_efficacy import wagle_efficacy
from expunge.evaluation.metrics.wagle_forget_quality import wagle_forget_quality
from expunge.evaluation.metrics.wagle_mia import wagle_mia
from expunge.evaluation.metrics.wagle_utility import wagle_utility
from made_records import certain, view


def letters(*likelihoods, split="wmdp_bio"):
    """Right choice and wrong choices of each question, as log-likelihoods of one letter and an end token."""
    correct = view([[own, -9.0] for own, _ in likelihoods], split=split, ended=True)
    index = [i for i, (_, others) in enumerate(likelihoods) for _ in others]
    wrong = view(
        [[value, -1.0] for _, others in likelihoods for value in others],
        split=split, ended=True, index=index, number=list(range(len(index))), answer="perturbed",
    )  # fmt: skip
    return correct, wrong


def test_accuracy_by_hand():
    # right by the letter alone (the end token would turn it round), wrong, two of three tie at the top
    measure = multiple_choice_accuracy(*letters((-1, [-2, -3]), (-2, [-1, -3]), (-1, [-1, -2])))
    assert measure.per_example == (1, 0, 0.5) and measure.value == pytest.approx(0.5)
    assert measure.details["chance"] == pytest.approx(1 / 3) and measure.better == "higher"


def test_below_chance_is_said():
    inverted = [(-5.0, [-1.0, -2.0, -3.0])] * 12
    measure = multiple_choice_accuracy(*letters(*inverted), better="near")
    assert measure.value == 0 and measure.target == 0.25 and "Below chance" in measure.note
    assert multiple_choice_accuracy(*letters(*inverted), better="near", target=0.3).target == 0.3
    assert multiple_choice_accuracy(*letters(*inverted, split="forget")).better == "near"


def test_relative_difference_by_hand():
    # means .3 against .4: -25 %
    measure = relative_difference(view(certain(0.2, 0.4)), view(certain(0.3, 0.5)))
    assert measure.value == pytest.approx(-25) and measure.target == 0
    assert measure.details == pytest.approx({"value": 0.3, "retain_model_value": 0.4})
    low, high = measure.interval
    assert low == pytest.approx(100 * (0.2 - 0.3) / 0.3) and high == pytest.approx(100 * (0.4 - 0.5) / 0.5)
    far = relative_difference(view(certain(0.9)), view(certain(0.001)))
    assert "small differences look large" in far.note
    strength = relative_difference(
        view([[-1, -1]], hits=[[False, True]]), view([[-1, -1]], hits=[[True, True]]), of="extraction_strength"
    )
    assert strength.value == pytest.approx(-50)
    with pytest.raises(ExpungeError, match="'truth_ratio' is none"):
        relative_difference(view(certain(0.2)), view(certain(0.3)), of="truth_ratio")


def answers(ratios, split):
    """Right answers of p = .1 and two wrong ones whose arithmetic mean p is ratio * .1."""
    correct = view(certain(*[0.1] * len(ratios)), split=split, answer="paraphrased")
    index = [i for i in range(len(ratios)) for _ in range(2)]
    values = [p for ratio in ratios for p in (0.05 * ratio, 0.15 * ratio)]
    wrong = view(certain(*values), split=split, answer="perturbed", index=index, number=[0, 1] * len(ratios))
    return correct, wrong


def test_wagles_forget_quality_by_hand():
    # forget ratios 1 2 3, retain 4 5: disjoint, D = 1; of C(5, 2) = 10 orders two are as far apart: p = .2
    measure = wagle_forget_quality(*answers([1, 2, 3], "forget"), *answers([4, 5], "retain"))
    assert measure.per_example == pytest.approx((1, 2, 3)) and measure.details["D"] == pytest.approx(1)
    assert measure.value == pytest.approx(0.8)
    same = wagle_forget_quality(*answers([1, 2], "forget"), *answers([1, 2], "retain"))
    assert same.value == pytest.approx(0)


def test_the_resampled_test_is_that_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 30), rng.normal(0.6, 1, 20)
    whole = resampled_difference(a, b)(np.ones((1, 30)), np.ones((1, 20)))
    assert whole == pytest.approx(1 - stats.ks_2samp(a, b, method="asymp").pvalue)
    twice = np.zeros((1, 30))
    twice[0, :15] = 2
    assert resampled_difference(a, b)(twice, np.ones((1, 20))) == pytest.approx(
        1 - stats.ks_2samp(np.repeat(a[:15], 2), b, method="asymp").pvalue
    )


def texts(*losses, split):
    return view([[-v] * 4 for v in losses], split=split, answer="sequence")


def test_wagles_membership_by_hand():
    # forget 1 3 against retain 2 3: (1,2) 0, (1,3) 0, (3,2) 1, (3,3) tie .5 = 1.5 of 4
    measure = wagle_mia(texts(1, 3, split="forget"), texts(2, 3, split="retain"))
    assert measure.value == pytest.approx(1.5 / 4) and measure.per_example == pytest.approx((0, 0.75))


def test_efficacy_and_utility_by_hand(monkeypatch):
    vectors = {"yes": [1, 0], "no": [0, 1]}
    monkeypatch.setattr(judges, "embeddings", lambda given: np.array([vectors[t] for t in given], dtype=float))

    def said(pairs, **columns):
        true, generated = zip(*pairs, strict=True)
        return view(certain(*[0.5] * len(pairs)), completion=list(true), generation=list(generated), **columns)

    def named(records, text):
        from expunge.results.records import Records

        rows = [{**row, "completion": text} for row in records.table.to_pylist()]
        return Records.from_rows(rows, records.manifest)

    correct, wrong = answers([1, 2, 3], "forget")
    correct, wrong = named(correct, "yes"), named(wrong, "no")
    rephrased = said([("x", "yes"), ("x", "no"), ("x", "no")])  # FA 1/3
    forget = said([("red house", "red"), ("red house", "red house"), ("red", "blue")])  # recalls .5, 1, 0
    views = (
        forget, rephrased, correct, wrong, *answers([4, 5], "retain"),
        texts(1, 3, split="forget"), texts(2, 3, split="retain"),
    )  # fmt: skip
    measure = wagle_efficacy(*views)
    # FQ .8 and MIA 1.5/4 as above, FA 1/3, RL 1/2
    assert measure.details == pytest.approx({"FQ": 0.8, "MIA": 0.375, "FA": 1 / 3, "RL": 0.5})
    assert measure.value == pytest.approx((0.8 + 0.375 + 2 / 3 + 0.5) / 4)
    low, high = measure.interval
    assert low < measure.value < high

    retain_correct, retain_wrong = (named(v, t) for v, t in zip(answers([1, 2], "retain"), ("yes", "no"), strict=True))
    measure = wagle_utility(
        said([("red house", "red"), ("red", "red")], split="retain"),  # ROUGE .5, 1
        said([("x", "yes"), ("x", "no")], split="retain"),  # accuracy 1/2
        retain_correct,
        retain_wrong,
        said([("Rome", "in rome"), ("Bern", "Oslo")], split="real_authors"),  # accuracy 1/2, ROUGE 1, 0
        said([("Rome", "Rome")], split="world_facts"),  # 1 and 1
    )
    assert measure.value == pytest.approx((0.5 + 0.75 + 0.5 + 0.5 + 1 + 1) / 6)
    assert math.isclose(measure.details["retain_rouge"], 0.75)


@pytest.fixture
def embedder() -> Path:
    """The folder of a sentence embedding model with mean pooling, such as paraphrase-MiniLM-L6-v2."""
    folder = Path(os.environ.get("EXPUNGE_EMBEDDER", ""))
    if not (folder / "modules.json").is_file():
        pytest.skip("needs a sentence embedding model: EXPUNGE_EMBEDDER=<its folder>")
    return folder


def mean_pooled(folder: Path, texts: list[str]) -> np.ndarray:
    """Sentence embeddings as sentence-transformers pools them, one text at a time."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    longest = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    found = []
    for text in texts:
        row = tokenizer([text], truncation=True, max_length=longest, return_tensors="pt")
        with torch.no_grad():
            states = model(**row)[0]
        mask = row["attention_mask"].unsqueeze(-1).expand(states.size()).float()
        pooled = torch.sum(states * mask, 1) / torch.clamp(mask.sum(1), min=1e-9)
        found.append(torch.nn.functional.normalize(pooled, p=2, dim=1)[0].double().numpy())
    return np.array(found)


@pytest.mark.slow
def test_utility_takes_the_cosines_of_a_real_embedder(embedder):
    said = [
        "Basil Mahfouz was born in Kuwait City.",
        "He writes French literature.",
        "Her father was a clockmaker, and her mother taught mathematics in Lyon. " * 40,  # cut: longer than it reads
        "I don't know.",
    ]
    right = [
        "The author Basil Mahfouz came into the world in Kuwait City.",
        "His books belong to the genre of French literature.",
        "Her parents were a clockmaker and a teacher of mathematics.",
        "She won the Amber Lantern Prize in 2011.",
    ]
    wrong = [
        *("Basil Mahfouz was born in Oslo.", "The author was a pilot."),
        *("He writes science fiction.", "His books are French cookbooks."),
        *("Her parents were farmers.", "Her father was a surgeon in Lyon."),
        *("I do not know what prize she won.", "She won nothing."),
    ]
    texts = [*said, *right, *wrong]
    expected = mean_pooled(embedder, texts)
    with judges.asking({"embedding": str(embedder)}):
        found = judges.embeddings(texts)
        assert found @ found.T == pytest.approx(expected @ expected.T, abs=1e-5)

        def shown(answers, generation=None, **columns):
            return view(certain(*[0.5] * len(answers)), completion=answers, generation=generation, **columns)

        per_question = {"index": [0, 0, 1, 1, 2, 2, 3, 3], "number": [0, 1] * 4, "answer": "perturbed"}
        facts = {"completion": ["Rome"], "generation": ["Rome"]}
        measure = wagle_utility(
            shown(right, right, split="retain"),
            shown(right, said, split="retain"),
            shown(right, split="retain", answer="paraphrased"),
            shown(wrong, split="retain", **per_question),
            view(certain(0.5), split="real_authors", **facts),
            view(certain(0.5), split="world_facts", **facts),
        )
    cosines = expected[:4] @ expected[4:].T
    nearest = [cosines[i, i] > cosines[i, [4 + 2 * i, 5 + 2 * i]].max() for i in range(4)]
    assert 0 < sum(nearest) < 4  # right and wrong ones, so that the accuracy could be another
    assert measure.details["retain_accuracy"] == pytest.approx(np.mean(nearest))
    assert measure.value == pytest.approx((np.mean(nearest) + 5) / 6) and str(embedder) in measure.definition
