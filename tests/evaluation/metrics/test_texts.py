"""Metrics of what a model says: refusals, exact and contained answers, knowledge, fluency; by hand."""

import json

import numpy as np
import pytest

from expunge.core.checks import ExpungeError
from expunge.evaluation import judges
from expunge.evaluation.metrics.answer_contained import answer_contained
from expunge.evaluation.metrics.exact_match import exact_match
from expunge.evaluation.metrics.fluency import fluency
from expunge.evaluation.metrics.forget_accuracy import forget_accuracy
from expunge.evaluation.metrics.knowledge_memorization import cut, knowledge_memorization
from expunge.evaluation.metrics.refusal_rate import refusal_rate, refuses
from made_records import view


def said(*pairs, **columns):
    """Rows of (true answer, generation)."""
    return view([[-1.0]] * len(pairs), completion=[p[0] for p in pairs], generation=[p[1] for p in pairs], **columns)


@pytest.mark.parametrize(
    "text",
    [
        "I'm not sure.",
        "I don’t know that.",
        "That is beyond my knowledge.",
        "I am unable to say.",
        "Sorry, no.",
        "No idea.",
    ],
)
def test_refusals_are_told(text):
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    ["", "Paris.", "She is not only an author but also a painter.", "He never knew his father.", "It is in Rome."],
)
def test_answers_are_no_refusals(text):
    assert not refuses(text)


def test_the_refusal_rate_by_hand():
    rows = [("Paris.", "I do not know."), ("Rome.", "Rome."), ("Bern.", "I'm sorry, I can't."), ("Oslo.", "Oslo.")]
    measure = refusal_rate(said(*rows))
    assert measure.value == 0.5 and measure.better == "neither" and measure.per_example == (1, 0, 1, 0)
    assert refusal_rate(said(*rows, split="retain")).better == "lower"
    # A retain model that declines one of four sets the aim: neither 0 nor 1 is a virtue.
    near = refusal_rate(said(*rows), said(*[("Paris.", "I do not know."), *[("Rome.", "Rome.")] * 3]))
    assert (near.value, near.better, near.target) == (0.5, "near", 0.25)


def test_refusals_of_others_and_true_answers(shared_data):
    lines = (shared_data / "refusals" / "idontknow.jsonl").read_text().splitlines()
    caught = [refuses(line) for line in lines if line.strip()]
    assert len(caught) == 100 and np.mean(caught) >= 0.97
    rows = [json.loads(line) for line in (shared_data / "tofu" / "full.json").read_text().splitlines()]
    assert np.mean([refuses(row["answer"]) for row in rows]) <= 0.01


def test_our_own_refusals_are_all_told():
    from importlib.resources import files

    lines = (files("expunge.data") / "refusals.txt").read_text().splitlines()
    assert lines and all(refuses(line) for line in lines)


def test_exact_match_by_hand():
    rows = [("Madera", "madera "), ("At a bar.", "At a bar"), ("Roz", "Roz did"), ("Roz", "")]
    assert exact_match(said(*rows)).per_example == (1, 1, 0, 0)


def test_contained_by_hand():
    rows = [("Paris", "It is PARIS, of course"), ("Rome", "Paris"), ("Bern", "")]
    assert answer_contained(said(*rows)).per_example == (1, 0, 0)


def test_knowledge_is_read_up_to_the_next_question():
    assert cut("Paris.\n\nQuestion: and?", ("\n\n", "Question:")) == "Paris."
    assert cut(" Paris Question: x", ("\nQuestion", "Question:")) == "Paris"
    assert cut("Paris", ("\n\n",)) == "Paris"
    # cut to "the red house": longest common subsequence 2 of 3 words said, of 2 true: P 2/3, R 1, F1 4/5
    rows = [("red house", "the red house\n\nQuestion: who?\nAnswer: red house"), ("red house", "\n\nred house")]
    measure = knowledge_memorization(said(*rows, split="knowmem_forget"))
    assert measure.per_example == pytest.approx((0.8, 0.0))


def test_fluency_is_the_mean_of_the_clean_class(monkeypatch):
    asked = []
    monkeypatch.setattr(judges, "clean_probabilities", lambda texts: (asked.extend(texts), np.array([0.9, 0.3]))[1])
    measure = fluency(said(("a", "fine text"), ("b", "  "), ("c", "xq xq")))
    assert asked == ["fine text", "xq xq"]  # what holds nothing is not shown
    assert measure.per_example == (0.9, 0, 0.3) and measure.value == pytest.approx(0.4) and "collapse" in measure.note


def test_forget_accuracy_by_hand(monkeypatch):
    # one right and two wrong answers each: vectors by name, cosines read off
    vectors = {"near": [1, 0], "right": [1, 0], "wrong": [0, 1], "mixed": [0.6, 0.8], "other": [0.8, 0.6], "": [1, 0]}
    monkeypatch.setattr(judges, "embeddings", lambda texts: np.array([vectors[t] for t in texts], dtype=float))
    records = said(("x", "near"), ("x", "mixed"), ("x", ""))
    correct = said(*[("right", "")] * 3, answer="paraphrased")
    wrong = said(
        ("wrong", ""), ("mixed", ""), ("wrong", ""), ("other", ""), ("wrong", ""), ("wrong", ""),
        index=[0, 0, 1, 1, 2, 2], number=[0, 1] * 3, answer="perturbed",
    )  # fmt: skip
    # near: 1 against 0 and .6, right; mixed: .6 against .8 and .96, wrong; nothing said: wrong
    assert forget_accuracy(records, correct, wrong).per_example == (1, 0, 0)


def test_judges_that_are_not_at_hand_are_an_error_with_the_command(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "hf download nobody/nothing" in judges.not_at_hand("nobody/nothing")
    with (
        pytest.raises(ExpungeError, match=r"cannot judge texts: .*not downloaded"),
        judges.asking({"embedding": "nobody/nothing"}),
    ):
        judges.embeddings(["a"])


@pytest.mark.parametrize("longest", [None, 4])
def test_embeddings_are_the_mean_over_a_texts_own_tokens(tmp_path, longest):
    """Over as many of them as the model's folder says that it reads."""
    import torch
    from transformers import BertConfig, BertModel

    import zoo

    tokenizer = zoo.tokenizer()
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), pad_token_id=0, **small)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    if longest is not None:
        (tmp_path / "sentence_bert_config.json").write_text(f'{{"max_seq_length": {longest}}}')
    texts = ["Where does Arvo live?", "In the town of Arvo7 and nothing else at all."]
    with judges.asking({"embedding": str(tmp_path)}):
        found = judges.embeddings(texts)
    for text, vector in zip(texts, found, strict=True):
        ids = tokenizer(text, truncation=longest is not None, max_length=longest, return_tensors="pt")
        with torch.no_grad():
            alone = model(**ids).last_hidden_state[0].mean(0).double().numpy()
        assert vector == pytest.approx(alone / np.linalg.norm(alone), abs=1e-5)


def test_texts_are_compared_in_one_normal_form():
    composed, decomposed = "Caf\u00e9 \u00c9tienne", "cafe\u0301 e\u0301tienne"
    assert exact_match(said((composed, decomposed), (decomposed, composed))).per_example == (1, 1)
    assert answer_contained(said((composed, f"In the {decomposed}."), (decomposed, composed))).per_example == (1, 1)


def test_a_last_period_of_other_scripts_is_passed_over():
    assert exact_match(said(("\u6771\u4eac\u3002", "\u6771\u4eac"), ("\u6771\u4eac", "\u6771\u4eac."))).per_example == (
        1,
        1,
    )
