"""What a collection records on request, how it goes on after a kill, and how ranks share it."""

import math

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

import zoo
from expunge.core.batch import Encoded
from expunge.data.corpus import Corpus, Example
from expunge.data.tokenizing import encode
from expunge.evaluation import collect as module
from expunge.evaluation import scoring
from expunge.evaluation.collect import collect
from expunge.evaluation.evaluate import evaluate
from expunge.evaluation.partial import Partial
from expunge.evaluation.probe import Probe, merged
from expunge.evaluation.scoring import gradient_norms
from expunge.models import generate
from expunge.results.records import Records

ASKED = [
    Probe(split="forget", generate=True, max_new_tokens=6, moments=True, gradients=True),
    Probe(split="forget", answer="perturbed"),
    Probe(split="retain", answer="sequence", generate=True, max_new_tokens=9),
    Probe(split="holdout", moments=True),
]


@pytest.fixture(scope="module")
def records(model, tokenizer, corpus) -> Records:
    return collect(model, tokenizer, corpus, ASKED)


def test_moments_equal_those_of_a_plain_softmax(records, model, tokenizer, corpus):
    for split in ("forget", "holdout"):
        found = records.where(split=split, answer="answer")
        means, variances = found.arrays("logprob_means"), found.arrays("logprob_variances")
        for row, mean, variance in zip(encode(corpus[split], tokenizer), means, variances, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([row.ids])).logits[0, row.start - 1 : -1].double()
            p = logits.softmax(-1)
            expected = (p * p.log()).sum(-1)
            assert mean == pytest.approx(expected.numpy(), abs=1e-5)
            assert variance == pytest.approx(((p * p.log() ** 2).sum(-1) - expected**2).numpy(), abs=1e-5)
    assert records.where(answer="perturbed").table["logprob_means"].null_count == len(records.where(answer="perturbed"))


def test_moments_cost_no_further_pass(model, tokenizer, corpus, monkeypatch):
    passes = []
    plain = scoring.observe
    monkeypatch.setattr(scoring, "observe", lambda *a: (passes.append(len(a[1])), plain(*a))[1])
    probes = [Probe(split="forget", moments=True), Probe(split="retain")]
    collect(model, tokenizer, corpus, probes, batch_size=100)
    assert passes == [2]  # one pass over the streams with and without


def test_gradient_norms_equal_those_of_a_plain_backward_pass(records, tokenizer, corpus):
    fresh = zoo.tiny_model("llama", seed=1, max_position_embeddings=512)
    found = records.where(split="forget", answer="answer").numbers("gradient_norm")
    for row, norm in zip(encode(corpus["forget"], tokenizer), found, strict=True):
        assert row.ended
        ids = torch.tensor([row.ids[:-1]])  # without the end token
        labels = ids.clone()
        labels[0, : row.start] = -100
        fresh.zero_grad()
        fresh(ids, labels=labels).loss.backward()
        norms = [p.grad.norm().item() for p in fresh.parameters() if p.grad is not None]
        assert norm == pytest.approx(sum(norms) / len(norms), rel=1e-4)
    assert len(set(found)) == len(found)


def test_gradient_norms_leave_the_model_as_it_was(tokenizer, corpus):
    model = zoo.tiny_model("gpt2", seed=3)
    frozen = next(model.parameters())
    frozen.requires_grad_(False)
    rows = encode(corpus["forget"][:2], tokenizer)
    some_frozen = gradient_norms(model, rows)
    assert [p.requires_grad for p in model.parameters()].count(False) == 1 and not frozen.requires_grad
    assert all(p.grad is None for p in model.parameters())
    frozen.requires_grad_(True)
    assert gradient_norms(model, rows) == some_frozen  # what is frozen counts too


def test_a_sequence_holds_its_tokens_and_what_follows_each_miss(records, model, tokenizer, corpus):
    found = records.where(split="retain", answer="sequence")
    lists = zip(*(found.column(c) for c in ("tokens", "hits", "prefix_generations")), strict=True)
    for row, (tokens, hits, written) in zip(encode(corpus["retain"], tokenizer), lists, strict=True):
        assert tokens == list(row.ids[:9]) and len(hits) == 8
        misses = [i for i, hit in enumerate(hits) if not hit]
        assert len(written) == len(misses) > 0
        for i, said in zip(misses, written, strict=True):
            prefix = tokens[: 1 + i]
            for _ in range(9 - len(prefix)):
                with torch.no_grad():
                    prefix.append(model(torch.tensor([prefix])).logits[0, -1].argmax().item())
            expected = prefix[1 + i :]
            ends = [k for k, token in enumerate(expected) if token == tokenizer.eos_token_id]
            assert said == expected[: ends[0] if ends else None]


def test_a_killed_collection_goes_on(records, model, tokenizer, corpus, tmp_path, monkeypatch):
    computed, written = [], []
    plain, plain_generate = scoring._observed, generate._generate

    def dying(model, rows, more):
        if len(computed) == 3:
            raise KeyboardInterrupt
        computed.append([row.ids for row in rows])
        return plain(model, rows, more)

    monkeypatch.setattr(module, "Partial", lambda *a, **k: Partial(*a, **{**k, "seconds": 0.0}))
    monkeypatch.setattr(scoring, "_observed", dying)
    with pytest.raises(KeyboardInterrupt):
        collect(model, tokenizer, corpus, ASKED, batch_size=4, parts=tmp_path)
    before, first = len(list(tmp_path.rglob("scores-*"))), list(computed)
    assert before == 3

    def dying_later(inner, batch, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(list(batch))
        return plain_generate(inner, batch, *rest)

    computed.clear()
    monkeypatch.setattr(
        scoring, "_observed", lambda m, rows, more: (computed.append([r.ids for r in rows]), plain(m, rows, more))[1]
    )
    monkeypatch.setattr(generate, "_generate", dying_later)
    with pytest.raises(KeyboardInterrupt):
        collect(model, tokenizer, corpus, ASKED, batch_size=4, parts=tmp_path)
    assert computed and not {tuple(b) for b in computed} & {tuple(b) for b in first}

    computed.clear()
    done = {prompt for batch in written for prompt in batch}
    monkeypatch.setattr(
        generate, "_generate", lambda i, batch, *r: (written.append(list(batch)), plain_generate(i, batch, *r))[1]
    )
    finished = collect(model, tokenizer, corpus, ASKED, batch_size=4, parts=tmp_path)
    assert not computed and not done & {prompt for batch in written[2:] for prompt in batch}
    monkeypatch.undo()
    assert finished.table.equals(collect(model, tokenizer, corpus, ASKED, batch_size=4).table)

    monkeypatch.setattr(scoring, "_observed", None)
    monkeypatch.setattr(generate, "_generate", None)
    monkeypatch.setattr(scoring, "_gradient_norm", None)
    again = collect(model, tokenizer, corpus, ASKED, batch_size=4, parts=tmp_path)  # all of it lies there
    assert again.table.equals(finished.table)


def test_parts_of_other_content_are_not_used(model, other_model, tokenizer, corpus, tmp_path):
    probes = [Probe(split="forget")]
    collect(model, tokenizer, corpus, probes, parts=tmp_path)
    other = collect(other_model, tokenizer, corpus, probes, parts=tmp_path)
    assert other.table.equals(collect(other_model, tokenizer, corpus, probes).table)
    assert len(list(tmp_path.iterdir())) == 2


def test_parts_are_gone_once_the_records_are_there(model, tokenizer, corpus, tmp_path):
    evaluate(model, tokenizer, corpus, output_dir=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluation.json", "records.parquet"]


def test_merged_probes_ask_for_all_that_any_asks_for():
    one, two = Probe(split="forget", moments=True), Probe(split="forget", gradients=True)
    assert merged([one, two]) == [Probe(split="forget", moments=True, gradients=True)]
    long = Probe(split="forget", answer="sequence", generate=True, max_new_tokens=300)
    assert merged([Probe(split="forget", answer="sequence"), long]) == [long]


def test_a_sequence_of_one_token_cannot_be_predicted():
    with pytest.raises(ValueError, match="example 3 of forget has 1 tokens"):
        module._sequence(Encoded((4, 2), 1, True, 0), 200, "example 3 of forget")


def _rank(rank: int, address: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    computed = []
    plain = scoring._observed
    scoring._observed = lambda m, rows, more: (computed.append(len(rows)), plain(m, rows, more))[1]
    model = torch.nn.parallel.DistributedDataParallel(
        zoo.tiny_model("llama", seed=1, max_position_embeddings=512)
    )  # as in training
    found = collect(model, zoo.tokenizer(), shared_corpus(), SHARED_PROBES, batch_size=3, parts=f"{folder}/parts")
    found.save(f"{folder}/{rank}")
    with open(f"{folder}/{rank}/computed", "w") as file:  # noqa: PTH123
        file.write(str(sum(computed)))
    evaluate(model, zoo.tokenizer(), shared_corpus(), output_dir=f"{folder}/evaluation", metrics=["forget_probability"])
    torch.distributed.destroy_process_group()


SHARED_PROBES = [
    Probe(split="forget", generate=True, max_new_tokens=4, moments=True, gradients=True),
    Probe(split="retain", answer="sequence", generate=True, max_new_tokens=12),
]


def shared_corpus() -> Corpus:
    return zoo.corpus(7, 5)


@pytest.mark.slow
def test_ranks_share_the_work_and_find_what_one_process_finds(tmp_path):
    mp.spawn(_rank, args=(f"file://{tmp_path}/group", str(tmp_path)), nprocs=2)
    alone = collect(
        zoo.tiny_model("llama", seed=1, max_position_embeddings=512),
        zoo.tokenizer(),
        shared_corpus(),
        SHARED_PROBES,
        batch_size=3,
    )
    zero, one = Records.load(tmp_path / "0"), Records.load(tmp_path / "1")
    assert zero.table.equals(alone.table) and one.table.equals(alone.table)
    counts = [int((tmp_path / str(rank) / "computed").read_text()) for rank in (0, 1)]
    assert sum(counts) == 8 and min(counts) == 3  # seven answers, and one row: the five sequences begin alike
    assert (tmp_path / "evaluation" / "evaluation.json").is_file()


def test_texts_are_continued_from_their_prefixes(model, tokenizer):
    texts = Corpus({"forget": (Example(kind="text", completion="Arvo lives in the town of Arvo7 and nothing else."),)})
    found = collect(
        model, tokenizer, texts, [Probe(split="forget", answer="sequence", generate=True, max_new_tokens=200)]
    )
    assert found.column("ended") == [False] and math.isclose(
        np.sum(found.arrays("hits")[0] >= 0), len(found.column("tokens")[0]) - 1
    )
