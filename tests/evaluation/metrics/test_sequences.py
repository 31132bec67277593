"""EL_n and MA, by hand and against a plain loop over prefixes."""

import numpy as np
import pytest
import torch

import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.evaluation.collect import collect
from expunge.evaluation.metrics.extraction_likelihood import extraction_likelihood, likelihood, overlap
from expunge.evaluation.metrics.memorization_accuracy import memorization_accuracy
from expunge.evaluation.probe import Probe
from expunge.results.records import Records
from made_records import MANIFEST, view


def sequence(tokens, hits, after_misses):
    row = view([[-1.0] * len(hits)], hits=[hits], answer="sequence").table.to_pylist()[0]
    return Records.from_rows([{**row, "tokens": tokens, "prefix_generations": after_misses}], MANIFEST)


def test_overlap_by_hand():
    # 2-grams of a: 12 23 31 12; those in b = {12, 24, 41}: 12 twice; b has 3
    assert overlap([1, 2, 3, 1, 2], [1, 2, 4, 1], 2) == pytest.approx(2 / 3)
    assert overlap([1], [1, 2, 4], 2) == 0 and overlap([], [1, 2], 2) == 0
    assert overlap([1, 2, 1, 2], [5, 1, 2], 2) == pytest.approx(2 / 2)  # repeats count


def test_likelihood_by_hand():
    # x = 1 2 3 4, n = 2, prefixes i = 1, 2. Token 3 is missed after (1, 2): there the model says 9 9.
    # i = 2: 9 9 against 3 4: 0. i = 1: 2 is a hit, then as from (1, 2): 2 9 9 against 2 3 4: 0 of 2 -> EL 0
    assert likelihood([1, 2, 3, 4], [True, False, True], [[9, 9]], 2) == 0
    # 2 is missed after (1): the model says 3 4 3; after (1, 2) it goes on 3 4:
    # i = 1: 34 43 against {23, 34} (2): 1/2; i = 2: 34 against {34}: 1 -> 3/4
    assert likelihood([1, 2, 3, 4], [False, True, True], [[3, 4, 3]], 2) == pytest.approx(0.75)


def test_a_sequence_that_is_reproduced_has_both_at_one():
    records = sequence(list(range(20)), [True] * 19, [])
    assert extraction_likelihood(records).value == 1 and memorization_accuracy(records).value == 1


def test_memorization_accuracy_by_hand():
    records = sequence([1, 2, 3, 4], [True, False, True], [[9, 9]])
    assert memorization_accuracy(records).value == pytest.approx(2 / 3)
    assert memorization_accuracy(records).better == "lower"


def test_a_short_sequence_is_an_error():
    with pytest.raises(ExpungeError, match=r"sequence 0 has 4 tokens; EL_10 needs more than 10"):
        extraction_likelihood(sequence([1, 2, 3, 4], [True] * 3, []))


def test_without_continuations_it_says_so():
    with pytest.raises(ExpungeError, match="no continuations of prefixes"):
        extraction_likelihood(view([[-1.0]]))


def naive(model, tokens, eos, n):
    """EL_n and MA from the formulas, one prefix and one token at a time, without a cache."""

    def next_token(ids):
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0, -1].argmax().item()

    length, shares = len(tokens), []
    for i in range(1, length - n + 1):
        ids = list(tokens[:i])
        while len(ids) < length and (new := next_token(ids)) not in eos:
            ids.append(new)
        said, true = ids[i:], tokens[i:]
        grams = [tuple(true[k : k + n]) for k in range(len(true) - n + 1)]
        shares.append(sum(tuple(said[k : k + n]) in grams for k in range(len(said) - n + 1)) / len(grams))
    hits = [next_token(list(tokens[:i])) == tokens[i] for i in range(1, length)]
    return np.mean(shares), np.mean(hits)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_equal_to_a_plain_loop_over_prefixes(architecture):
    tokenizer = zoo.tokenizer()
    model = zoo.tiny_model(architecture, seed=4)
    ids = torch.tensor([tokenizer("In the town of Arvo7 and nothing else at all.").input_ids])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(12):  # so that it knows parts of the text, and hits and misses alternate
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    texts = ("In the town of Arvo7 and nothing else at all.", "In the town of Belda7 and nothing of Arvo7 at all.")
    corpus = Corpus({"forget": tuple(Example(kind="text", completion=text) for text in texts)})
    records = collect(model, tokenizer, corpus, [Probe(split="forget", answer="sequence", generate=True)])
    assert len({hit for row in records.column("hits") for hit in row}) == 2
    eos = {tokenizer.eos_token_id}
    expected = [naive(model, tokens, eos, 2) for tokens in records.column("tokens")]
    assert extraction_likelihood(records, n=2).per_example == pytest.approx([e[0] for e in expected])
    assert memorization_accuracy(records).per_example == pytest.approx([e[1] for e in expected])
    assert 0 < extraction_likelihood(records, n=2).value < 1
