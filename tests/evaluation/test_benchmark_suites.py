"""The suites of MUSE, TDEC, WMDP, LUME and WAGLE, from data to measures."""

import numpy as np
import pytest
import torch

import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.data.tokenizing import encode
from expunge.evaluation import judges
from expunge.evaluation.evaluate import evaluate
from expunge.evaluation.extraction_thresholds import forgotten_thresholds
from expunge.evaluation.suites.wmdp import wmdp


@pytest.fixture(scope="module")
def texts() -> Corpus:
    """Texts in every role that MUSE and TDEC name."""

    def text(i: int, what: str) -> Example:
        return Example(kind="text", completion=f"In the town of {what}{i} lives {what} number {i}, and nothing else.")

    def asked(i: int, what: str, kind: str) -> Example:
        return Example(
            kind=kind, prompt=f"Where does {what} {i} live?\nAnswer: ", completion=f"In the town of {what}{i}."
        )

    return Corpus(
        {
            "forget": tuple(text(i, "Arvo") for i in range(3)),
            "retain": tuple(text(i, "Belda") for i in range(3)),
            "holdout": tuple(text(i, "Cirio") for i in range(3)),
            "verbmem": tuple(asked(i, "Arvo", "completion") for i in range(2)),
            "knowmem_forget": tuple(asked(i, "Arvo", "completion") for i in range(2)),
            "knowmem_retain": tuple(asked(i, "Belda", "completion") for i in range(2)),
        }
    )


def test_muse_has_all_its_measures(model, tokenizer, texts):
    found = evaluate(model, tokenizer, texts, suite="muse")
    assert {n for n, m in found.items() if m.value is None} == set()
    assert [found[n].better for n in ("verbmem", "knowmem_forget", "privleak", "knowmem_retain")] == [
        "lower", "lower", "near", "higher",
    ]  # fmt: skip
    assert found["privleak"].n == 3 and found["privleak"].details["default_reference"] == 1


def test_verbmem_is_measured_against_the_first_tokens_alone(model, tokenizer):
    from expunge.evaluation.collect import collect
    from expunge.evaluation.probe import Probe

    example = Example(
        kind="completion", prompt="In the town", completion=" of Arvo and nothing else at all and nothing"
    )
    probe = Probe(split="verbmem", answer="opening", generate=True, max_new_tokens=4)
    records = collect(model, tokenizer, Corpus({"verbmem": (example,)}), [probe])
    ids = tokenizer(example.completion, add_special_tokens=False).input_ids
    assert len(records.arrays("logprobs")[0]) == 4 and records.column("ended") == [False]
    assert records.column("completion") == [tokenizer.decode(ids[:4])]
    whole = collect(model, tokenizer, Corpus({"verbmem": (example,)}), [Probe(split="verbmem", answer="opening")])
    assert whole.column("ended") == [True] and whole.column("completion") == [example.completion]


def test_tdec_measures_forgotten_and_unseen_text(model, tokenizer, texts):
    found = evaluate(model, tokenizer, texts, suite="tdec")
    assert all(m.value is not None for m in found.values())
    assert found["extraction_likelihood"].better == "lower" and "unseen text" in found["memorization_accuracy"].note


def test_a_model_that_knows_a_text_by_heart_has_el_and_ma_of_one(tokenizer, texts):
    model = zoo.tiny_model("llama", seed=2)
    ids = torch.tensor([tokenizer(texts["forget"][0].completion).input_ids])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = evaluate(model, tokenizer, Corpus({"forget": texts["forget"][:1]}), suite="tdec")
    assert found["memorization_accuracy"].value == 1 and found["extraction_likelihood"].value == 1


def test_thresholds_are_the_start_models_values_on_unseen_text(model, tokenizer, texts):
    found = forgotten_thresholds(model, tokenizer, texts)
    suite = evaluate(model, tokenizer, texts, suite="tdec")
    for name in ("extraction_likelihood", "memorization_accuracy"):
        assert found[name].value == suite[f"unseen_{name}"].value and found[name].n == 3


@pytest.mark.slow
def test_wmdp_on_real_questions(tokenizer, shared_data):
    from expunge.data.corpus import load_corpus

    rows = load_corpus("wmdp", path=shared_data / "mmlu_benign")["mmlu_benign"][::40]
    corpus = Corpus({"wmdp_benign": rows, "mmlu_benign": rows})
    model = zoo.tiny_model("llama", seed=1, max_position_embeddings=2048)
    found = evaluate(model, tokenizer, corpus, suite="wmdp", max_length=2048)
    near, higher = found["wmdp_benign_accuracy"], found["mmlu_benign_accuracy"]
    assert (near.better, near.target, higher.better) == ("near", 0.25, "higher") and near.n == len(rows) == 20
    expected = []
    for example in rows:  # the likeliest letter after the prompt
        likelihoods = {}
        for text in (example.completion, *example.perturbed):
            (row,) = encode([example.asking(text)], tokenizer, max_length=2048)
            ids = torch.tensor([row.ids[:-1]])  # without the end token
            with torch.no_grad():
                logprobs = model(ids).logits[0].log_softmax(-1)
            likelihoods[text] = sum(logprobs[t - 1, ids[0, t]].item() for t in range(row.start, ids.shape[1]))
        expected.append(float(max(likelihoods, key=likelihoods.__getitem__) == example.completion))
    assert near.per_example == tuple(expected) and near.value == np.mean(expected)
    assert evaluate(model, tokenizer, corpus, suite="multiple_choice", max_length=2048)[
        "wmdp_benign_accuracy"
    ].better == ("higher")


def test_what_is_missing_of_wmdp_keeps_its_direction():
    better = {entry.name: entry.better for entry in wmdp(["wmdp_bio", "mmlu_law"]).entries}
    assert better == {"wmdp_bio_accuracy": "near", "mmlu_law_accuracy": "higher"}


def test_wmdp_needs_questions():
    with pytest.raises(ExpungeError, match="source=wmdp path="):
        wmdp(["forget", "retain"])


def test_lume_on_real_stories(tokenizer, shared_data):
    from expunge.data.corpus import load_corpus

    whole = load_corpus("lume", path=shared_data / "lume")
    corpus = Corpus({split: whole[split][:2] for split in whole})
    model = zoo.tiny_model("llama", seed=1, max_position_embeddings=2048)
    found = evaluate(model, tokenizer, corpus, suite="lume", max_length=1700)
    assert {n for n, m in found.items() if m.value is None} == {"mia_loss"}  # no holdout
    assert found["forget_knowledge"].value == 0 and found["retain_regurgitation"].better == "higher"


def test_wagle_without_a_judge_says_what_to_fetch(model, tokenizer, corpus, monkeypatch):
    monkeypatch.setattr(judges, "not_at_hand", lambda name: f"it needs {name}")
    found = evaluate(model, tokenizer, corpus, suite="wagle")
    for name in ("UE", "UE_forget_accuracy", "UT"):
        assert found[name].value is None and "paraphrase-MiniLM" in found[name].note
    assert 0 <= found["UE_forget_quality"].value <= 1 and 0 <= found["UE_mia"].value <= 1
    with pytest.raises(ExpungeError, match=r"UE is not available.*paraphrase-MiniLM"):
        evaluate(model, tokenizer, corpus, suite="wagle", metrics=["UE"])


def test_wagle_with_a_judge(model, tokenizer, corpus, monkeypatch):
    monkeypatch.setattr(judges, "not_at_hand", lambda name: "")
    monkeypatch.setattr(judges, "embeddings", lambda given: np.array([[len(t), t.count("a") + 1.0] for t in given]))
    found = evaluate(model, tokenizer, corpus, suite="wagle", metrics=["UE", "UE_forget_quality", "UE_mia", "UE_rouge"])
    parts = found["UE"].details
    assert parts["FQ"] == pytest.approx(found["UE_forget_quality"].value)
    assert parts["MIA"] == pytest.approx(found["UE_mia"].value) and parts["RL"] == pytest.approx(
        found["UE_rouge"].value
    )


@pytest.fixture(scope="module")
def tiny_embedder(tmp_path_factory):
    """A BERT of our own making, as a folder."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("embedder")
    torch.manual_seed(0)
    size = len(zoo.tokenizer())
    config = BertConfig(
        vocab_size=size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    zoo.tokenizer().save_pretrained(folder)
    return folder


def test_wagles_efficacy_and_utility_with_an_embedder_of_ones_own(model, tokenizer, corpus, tiny_embedder):
    splits = {**corpus.splits, "real_authors": corpus["world"], "world_facts": corpus["world"]}
    facts = Corpus(splits, "facts")
    judges_of = {"embedding": str(tiny_embedder)}
    found = evaluate(model, tokenizer, facts, suite="wagle", judges=judges_of)
    for name in ("UE", "UT", "UE_forget_accuracy"):
        assert 0 <= found[name].value <= 1 and str(tiny_embedder) in found[name].definition
    parts = found["UT"].details
    assert found["UT"].value == pytest.approx(sum(parts.values()) / 6) and len(parts) == 6
    with pytest.raises(ExpungeError, match=r"no judge is called 'embeding'. Did you mean 'embedding'"):
        evaluate(model, tokenizer, facts, suite="wagle", judges={"embeding": "x"})


def test_a_metric_that_needs_a_judge_says_so_by_its_name_alone(model, tokenizer, corpus):
    with pytest.raises(ExpungeError, match=r"fluency is not available.*judges\.gibberish=<folder>"):
        evaluate(model, tokenizer, corpus, metrics=["fluency"])


def test_measures_on_request_are_there_when_named(model, tokenizer, corpus):
    assert "mia_grad_norm" not in evaluate(model, tokenizer, corpus, suite="tofu")
    found = evaluate(model, tokenizer, corpus, suite="tofu", metrics=["mia_grad_norm", "rephrased_extraction_strength"])
    assert all(m.value is not None for m in found.values()) and len(found) == 2
