"""The search for a prefix: its gradient, that it never gets worse, and that its prefix can be typed."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import expunge
import zoo
from expunge.attack.attack import attack
from expunge.attack.attacks.prefix_search import Rows, first_prefix, prefix_search, search
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.data.tokenizing import encode
from expunge.results.attacked import CannotRun

SMALL = {"length": 3, "swaps": 4, "candidates": 6, "shown": 2}


def rows_of(architecture: str = "llama", *, facts: int = 2) -> Rows:
    return Rows(zoo.tiny_model(architecture).eval(), zoo.tokenizer(), zoo.corpus()["forget"][:facts])


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_slopes_are_the_gradient_for_one_hot_tokens(architecture: str) -> None:
    rows = rows_of(architecture, facts=4)
    model = rows.model.double()
    prefix = first_prefix(rows, 3, random.Random(0))
    table = rows.embedding.weight.detach()
    expected = torch.zeros(3, len(table), dtype=torch.float64)
    for row, at in rows.behind(prefix) or ():
        one_hot = torch.nn.functional.one_hot(torch.tensor(row.ids), len(table)).double().requires_grad_()
        logits = model(inputs_embeds=(one_hot @ table)[None]).logits[0]
        targets = torch.tensor(row.ids[row.start :])
        picked = logits[row.start - 1 : -1].log_softmax(-1).gather(1, targets[:, None])
        expected += torch.autograd.grad(picked.mean() / 4, one_hot)[0][at : at + 3]
    assert_close(rows.slopes(prefix).double(), expected, rtol=1e-4, atol=1e-7)
    assert expected.abs().max() > 1e-4


def test_the_objective_is_the_mean_over_facts_of_the_mean_log_probability() -> None:
    rows = rows_of()
    prefix = first_prefix(rows, 3, random.Random(0))
    means = []
    for fact in rows.facts:
        asked = fact.asking(fact.completion, prompt=f"{rows.text(prefix)} {fact.question}")
        (row,) = encode([asked], rows.tokenizer)
        with torch.no_grad():
            logprobs = rows.model(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
        means.append(np.mean([float(logprobs[t - 1, row.ids[t]]) for t in range(row.start, len(row.ids))]))
    assert rows.objectives([prefix]) == pytest.approx([np.mean(means)], abs=1e-5)


def test_the_search_finds_better_prefixes_and_never_gets_worse() -> None:
    rows = rows_of()
    with torch.no_grad():  # with larger embeddings a random model hears more of its prompt
        rows.embedding.weight.mul_(20)
    start = first_prefix(rows, 3, random.Random(1))
    trace = search(rows, start, swaps=6, candidates=12, draw=random.Random(1))
    values = [value for _, value in trace]
    assert len(trace) == 7 and trace[0][0] == start
    assert values == sorted(values) and values[-1] > values[0]
    for (before, low), (after, high) in pairwise(trace):
        changed = sum(a != b for a, b in zip(before, after, strict=True))
        assert changed <= 1 and (changed == 1) == (high > low)  # one token a swap, and only for the better
    assert rows.objectives([trace[-1][0]]) == pytest.approx([values[-1]], abs=1e-5)


def test_the_prefix_is_text_that_gives_its_tokens_again() -> None:
    rows = rows_of(facts=3)
    for seed in range(5):
        prefix = search(
            rows, first_prefix(rows, 4, random.Random(seed)), swaps=2, candidates=8, draw=random.Random(seed)
        )[-1][0]
        text = rows.text(prefix)
        assert text.isprintable() and not set(prefix) & set(rows.tokenizer.all_special_ids)
        for fact in rows.facts:
            (row,) = encode([fact.asking(fact.completion, prompt=f"{text} {fact.question}")], rows.tokenizer)
            assert any(row.ids[i : i + 4] == prefix for i in range(row.start - 3))


def test_tokens_that_do_not_come_back_are_no_prefix() -> None:
    rows = rows_of()
    whole = rows.tokenizer("Where does", add_special_tokens=False)["input_ids"]
    assert rows.behind(tuple(whole)) is not None
    letters = [rows.tokenizer.convert_tokens_to_ids(letter) for letter in "Wh"]
    assert None not in letters and rows.text(tuple(letters)) == "Wh"
    assert rows.behind(tuple(letters)) is None  # the text is there, but as another token
    assert rows.objectives([tuple(letters), tuple(whole)])[0] is None
    end = rows.tokenizer.eos_token_id
    assert end not in rows.usable


def test_facts_that_were_not_shown_are_measured_and_it_says_nothing_without_a_control() -> None:
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    (leak,) = prefix_search(model, tokenizer, corpus, **SMALL)
    sought = leak.about["sought on"]
    assert len(sought) == 2 and sorted([*sought, *leak.facts]) == list(range(6)) and leak.needs_control
    for fact, prompt in zip(leak.facts, leak.prompts, strict=True):
        assert prompt == f"{leak.about['prefix']} {corpus['forget'][fact].question}"
    assert (leak,) == tuple(prefix_search(model, tokenizer, corpus, **SMALL))
    (other,) = prefix_search(model, tokenizer, corpus, **SMALL, seed=5)
    assert other.about["prefix"] != leak.about["prefix"]
    # Half of the facts are measured however many are asked for.
    (half,) = prefix_search(model, tokenizer, corpus, **{**SMALL, "swaps": 1, "shown": 100})
    assert len(half.facts) == 3


def test_what_one_model_knows_comes_out_above_the_control() -> None:
    tokenizer, corpus, knowing = zoo.tokenizer(), zoo.corpus(), zoo.tiny_model()
    expunge.finetune(knowing, tokenizer, corpus, splits=("forget",), learning_rate=1e-2, epochs=30, batch_size=6)
    found = attack(
        knowing,
        tokenizer,
        corpus,
        attacks=("prefix_search",),
        control=zoo.tiny_model(),
        settings={"prefix_search": SMALL},
    )
    assert found["prefix_search"].status == "ran" and (found["prefix_search"].mean or 0) > 0.2


def test_mistakes_and_too_few_facts() -> None:
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    for wrong in ("length", "swaps", "candidates", "shown"):
        with pytest.raises(ExpungeError, match=f"{wrong} must be at least 1; got 0"):
            prefix_search(model, tokenizer, corpus, **{wrong: 0})
    text = Example(kind="text", completion="Belda lives.")
    few = Corpus({"forget": (corpus["forget"][0], text)})
    with pytest.raises(CannotRun, match="it needs two facts that ask something"):
        prefix_search(model, tokenizer, few)
    one = Corpus({"forget": corpus["forget"][:1]})
    found = attack(model, tokenizer, one, attacks=("prefix_search",), control=model)
    assert found["prefix_search"].status == "not run"
