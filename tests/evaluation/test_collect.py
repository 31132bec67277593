"""Records against a plain second implementation that shows the model one row at a time."""

import numpy as np
import pytest
import torch

import zoo
from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.evaluation import collect as module
from expunge.evaluation import scoring
from expunge.evaluation.collect import collect, identity
from expunge.evaluation.metrics.exact_memorization import exact_memorization
from expunge.evaluation.metrics.extraction_strength import extraction_strength
from expunge.evaluation.metrics.mia import scores
from expunge.evaluation.probe import Probe
from expunge.evaluation.scoring import Work, teacher_forced
from expunge.results.records import Records
from made_records import MANIFEST

PROBES = [
    Probe(split="forget", generate=True, max_new_tokens=6),
    Probe(split="forget", answer="paraphrased"),
    Probe(split="forget", answer="perturbed"),
    Probe(split="forget", asked="paraphrased_question", generate=True, max_new_tokens=4),
    Probe(split="retain"),
    Probe(split="forget", answer="continuation", generate=True, max_new_tokens=5),
]


@pytest.fixture(scope="module")
def records(model, tokenizer, corpus) -> Records:
    return collect(model, tokenizer, corpus, PROBES)


def slow(model, row: Encoded) -> tuple[list[float], list[bool]]:
    with torch.no_grad():
        logits = model(torch.tensor([row.ids])).logits[0].double()
    chosen = [logits[t - 1].log_softmax(-1)[row.ids[t]].item() for t in range(row.start, len(row.ids))]
    hits = [logits[t - 1].argmax().item() == row.ids[t] for t in range(row.start, len(row.ids))]
    return chosen, hits


def test_every_row_is_there_once(records, corpus):
    wrong = sum(len(e.perturbed) for e in corpus["forget"])
    count = {"answer": 5, "paraphrased": 5, "perturbed": wrong, "continuation": 5}
    for answer, n in count.items():
        assert len(records.where(split="forget", asked="question", answer=answer)) == n
    assert len(records.where(split="retain")) == 6
    assert len(records.where(asked="paraphrased_question")) == 5
    rows = records.where(split="forget", answer="perturbed")
    assert rows.column("number") == [k for e in corpus["forget"] for k in range(len(e.perturbed))]
    assert records.where(split="forget", asked="question", answer="answer").column("key") == [
        e.key for e in corpus["forget"]
    ]


def test_logprobs_and_hits_equal_those_of_one_row_at_a_time(records, model, tokenizer, corpus):
    for asked, answer, of in (
        ("question", "answer", lambda e: (e.prompt, e.completion)),
        ("question", "paraphrased", lambda e: (e.prompt, e.paraphrased)),
        ("paraphrased_question", "answer", lambda e: (e.paraphrased_prompt, e.completion)),
    ):
        found = records.where(split="forget", asked=asked, answer=answer)
        texts = [of(e) for e in corpus["forget"]]
        rows = encode([Example(kind="qa", prompt=p, completion=c) for p, c in texts], tokenizer)
        assert found.column("completion") == [c for _, c in texts] and found.column("prompt") == [p for p, _ in texts]
        for row, logprobs, hits, ended in zip(
            rows, found.arrays("logprobs"), found.arrays("hits"), found.column("ended"), strict=True
        ):
            expected, expected_hits = slow(model, row)
            assert logprobs == pytest.approx(expected, abs=1e-5)
            assert hits.tolist() == expected_hits
            assert ended == row.ended and ended


def test_generations_equal_those_of_transformers(records, model, tokenizer, corpus):
    found = records.where(split="forget", asked="question", answer="answer").column("generation")
    assert len(set(found)) > 1
    for example, said in zip(corpus["forget"], found, strict=True):
        (row,) = encode([example], tokenizer)
        ids = torch.tensor([row.prompt_ids])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0
        )
        assert said == tokenizer.decode(out[0, len(row.prompt_ids) :], skip_special_tokens=True).strip()
    assert records.where(split="retain").column("generation") == [None] * 6
    assert records.where(answer="perturbed").table["generation"].null_count == len(records.where(answer="perturbed"))


def test_the_shorter_of_two_generations_from_one_prompt_is_the_beginning_of_the_longer(model, tokenizer, corpus):
    short = Probe(split="forget", generate=True, max_new_tokens=2)
    long = Probe(split="forget", answer="paraphrased", generate=True, max_new_tokens=7)
    both = collect(model, tokenizer, corpus, [short, long])
    alone = collect(model, tokenizer, corpus, [short])
    assert both.where(answer="answer").column("generation") == alone.column("generation")
    assert both.where(answer="answer").column("generation") != both.where(answer="paraphrased").column("generation")


def test_generation_starts_before_the_true_answer_whichever_is_scored(shared_data):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data / "models" / "tokenizer_gpt2")
    # GPT-2 takes the blank of "Answer: " into the first word, unless the answer begins with a blank of its own
    example = Example(kind="qa", prompt="Where?", completion="Paris.", paraphrased=" Paris it is.")
    plain, other = encode([example, example.asking(" Paris it is.")], tokenizer)
    assert plain.prompt_ids != other.prompt_ids
    both = [Probe(split="forget", answer=answer, generate=True) for answer in ("answer", "paraphrased")]
    items = module._items(Corpus({"forget": (example,)}), both, tokenizer, None, 64)
    assert [item.prompt_ids for item in items] == [plain.prompt_ids] * 2
    assert [item.row for item in items] == [plain, other]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_batches_change_nothing_but_rounding(records, model, tokenizer, corpus, batch_size):
    again = collect(model, tokenizer, corpus, PROBES[::-1], batch_size=batch_size)
    for probe in PROBES:
        ours, theirs = (r.where(split=probe.split, asked=probe.asked, answer=probe.answer) for r in (again, records))
        assert ours.column("generation") == theirs.column("generation")
        assert np.concatenate(ours.arrays("logprobs")) == pytest.approx(
            np.concatenate(theirs.arrays("logprobs")), abs=1e-5
        )
        assert np.array_equal(np.concatenate(ours.arrays("hits")), np.concatenate(theirs.arrays("hits")))
    assert again.manifest.inputs == records.manifest.inputs
    assert again.manifest.arguments == records.manifest.arguments


def test_the_manifest_counts_what_was_computed(model, tokenizer, corpus):
    both = [Probe(split="forget", answer=a, generate=True, max_new_tokens=2) for a in ("answer", "paraphrased")]
    results = collect(model, tokenizer, corpus, both).manifest.results
    assert results["rows"] == 10 and results["generations"] == 5  # two answers to each of five questions
    assert results["tokens"] == sum(
        len(row.ids) - row.start
        for text in ("completion", "paraphrased")
        for row in encode([e.asking(getattr(e, text)) for e in corpus["forget"]], tokenizer)
    )


def test_equal_rows_are_computed_once(model, tokenizer, corpus, monkeypatch):
    seen = []
    plain = scoring._observed
    monkeypatch.setattr(scoring, "_observed", lambda m, rows, more: (seen.extend(rows), plain(m, rows))[1])
    (row,) = encode(corpus["forget"][:1], tokenizer)
    later = Encoded(row.ids, row.start + 2, row.ended, 0)
    whole, part, again = teacher_forced(model, [row, later, row])
    assert len(seen) == 1
    assert np.array_equal(part[0], whole[0][2:]) and np.array_equal(part[1], whole[1][2:])
    assert np.array_equal(again[0], whole[0])


def test_too_little_memory_halves_the_batch(model, tokenizer, corpus, monkeypatch):
    rows, sizes = encode(corpus["forget"], tokenizer), []
    expected = teacher_forced(model, rows)
    plain = scoring._observed

    def scarce(model, batch, _):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no memory")
        return plain(model, batch)

    monkeypatch.setattr(scoring, "_observed", scarce)
    for ours, theirs in zip(teacher_forced(model, rows), expected, strict=True):
        assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
    assert sizes == [5, 2, 2, 1]


def test_the_model_comes_back_in_its_own_mode(tokenizer, corpus):
    model = zoo.tiny_model("gpt2", seed=1, attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5)
    model.train()
    model.transformer.h[0].eval()
    modes = [m.training for m in model.modules()]
    one = collect(model, tokenizer, corpus, [Probe(split="forget")])
    two = collect(model, tokenizer, corpus, [Probe(split="forget")])
    assert [m.training for m in model.modules()] == modes and any(modes)
    assert one.table.equals(two.table)  # dropout was off


def test_verbatim_memorization_cuts_where_the_definition_says(tokenizer):
    def cut(prompt_tokens: int, answer_tokens: int, *, ended: bool, new: int = 128) -> tuple[int, int, bool]:
        row = Encoded(tuple(range(prompt_tokens + answer_tokens + ended)), prompt_tokens, ended, 0)
        done = module._cut(row, new)
        return done.start, len(done.ids), done.ended

    assert cut(10, 20, ended=True) == (20, 31, True)  # 30 tokens, the end token aside: half of the answer
    assert cut(10, 60, ended=True) == (50, 71, True)  # half would be 40: after the first 50
    assert cut(40, 40, ended=True) == (60, 81, True)  # half, at 60, comes later than 50
    assert cut(49, 1, ended=True) == (49, 51, True)  # nothing but the answer's one token is left to continue with
    assert cut(49, 2, ended=False) == (50, 51, False)
    assert cut(1, 400, ended=False) == (201, 329, False)  # 200 tokens remain, of which 128 count
    assert cut(1, 400, ended=True, new=300) == (201, 402, True)


def test_the_continuation_is_scored_and_generated_from_the_cut(records, model, tokenizer, corpus):
    found = records.where(answer="continuation")
    for example, completion, logprobs in zip(
        corpus["forget"], found.column("completion"), found.arrays("logprobs"), strict=True
    ):
        (row,) = encode([example], tokenizer)
        cut = module._cut(row, 5)
        assert completion == tokenizer.decode(cut.ids[cut.start :], skip_special_tokens=True)
        assert logprobs == pytest.approx(slow(model, cut)[0], abs=1e-5)
        assert example.completion.endswith(completion) or len(cut.ids) < len(row.ids)


def test_limited_splits_are_drawn_once_and_for_all(model, tokenizer, corpus):
    probe = Probe(split="retain", limit=3)
    found = collect(model, tokenizer, corpus, [probe])
    assert found.column("index") == probe.rows(6) == sorted(set(probe.rows(6))) and len(found) == 3
    assert probe.rows(3) == [0, 1, 2] and Probe(split="retain").rows(4) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (Probe(split="elsewhere"), r"no split 'elsewhere'; it holds forget"),
        (Probe(split="holdout", answer="perturbed"), r"4 of 4 examples of split 'holdout' have no perturbed_answer"),
        (Probe(split="holdout", answer="paraphrased"), r"no paraphrased_answer"),
        (Probe(split="holdout", answer="alternate"), r"no alternate"),
        (Probe(split="holdout", asked="paraphrased_question"), r"no paraphrased_question"),
    ],
)
def test_what_is_missing_is_named(model, tokenizer, corpus, probe, message):
    with pytest.raises(ExpungeError, match=message):
        collect(model, tokenizer, corpus, [probe])


def test_some_missing_variants_are_an_error_too(model, tokenizer, corpus):
    mixed = Corpus({"forget": corpus["forget"][:2] + corpus["holdout"][:1]})
    with pytest.raises(ExpungeError, match=r"1 of 3 examples of split 'forget' have no perturbed_answer"):
        collect(model, tokenizer, mixed, [Probe(split="forget", answer="perturbed")])


def test_plain_text_cannot_be_answered_but_continued(model, tokenizer):
    texts = Corpus({"forget": (Example(kind="text", completion="Arvo lives in the town of Arvo7 and nothing else."),)})
    with pytest.raises(ExpungeError, match="plain text"):
        collect(model, tokenizer, texts, [Probe(split="forget", generate=True)])
    found = collect(
        model, tokenizer, texts, [Probe(split="forget", answer="continuation", generate=True, max_new_tokens=4)]
    )
    assert found.column("ended") == [False] and found.column("generation")[0] is not None


def test_the_identity_holds_what_decides_the_values(model, other_model, tokenizer, corpus, plain_corpus):
    def key(model=model, corpus=corpus, probes=PROBES, **settings):
        made = identity(model, tokenizer, corpus, probes, **settings)
        return str(made.inputs), str(made.arguments)

    same = key()
    assert key() == same and key(probes=PROBES[::-1]) == same
    others = [
        key(model=other_model),
        key(corpus=plain_corpus, probes=PROBES[4:5]),
        key(probes=PROBES[:1]),
        key(template=Template(name="plain", qa="Q: {question} A: ")),
        key(max_length=100),
        key(model=zoo.tiny_model("llama", seed=1, max_position_embeddings=512).double()),
    ]
    assert len({same, *others}) == 7
    assert identity(model, tokenizer, corpus, [Probe(split="retain")]).inputs.keys() == {
        "model",
        "tokenizer",
        "data.retain",
    }


def test_progress_is_told(model, tokenizer, corpus):
    told = []
    collect(model, tokenizer, corpus, PROBES, batch_size=4, progress=lambda *step: told.append(step))
    assert told[0][0] == "scoring answers" and told[-1][0] == "generating answers"
    done = [d for what, d, *_ in told if what == "scoring answers"]
    assert done == sorted(done) and told[-1][1] == told[-1][2]


def test_reference_values(shared_reference):
    """Per-example values that published implementations give on a tiny checkpoint, in float64."""
    import json

    from expunge.models.load import load_model

    given = json.loads((shared_reference / "batches.json").read_text())
    expected = json.loads((shared_reference / "expected.json").read_text())["metrics"]
    model = load_model(shared_reference / "current", dtype="float64", device="cpu")
    for batch in ("forget_even", "forget_ragged"):
        rows = [Encoded(tuple(r["input_ids"]), r["prompt_length"], True, 0) for r in given[batch]]
        scored = teacher_forced(model, rows, work=Work(batch_size=3))
        wanted = expected[batch]
        for (logprobs, *_), theirs in zip(scored, wanted["token_logprobs"], strict=True):
            assert logprobs.dtype == np.float64
            # their list may leave out the end token, which comes last
            assert len(logprobs) - len(theirs) in (0, 1)
            assert logprobs[: len(theirs)] == pytest.approx(theirs, rel=2e-6)
        losses = [-logprobs.mean() for logprobs, *_ in scored]
        assert losses == pytest.approx(wanted["avg_loss"], rel=2e-6)
        assert np.exp([-loss for loss in losses]) == pytest.approx(wanted["probability"], rel=2e-6)
        table = Records.from_rows(
            [
                {"split": "forget", "index": i, "asked": "question", "answer": "answer", "number": 0, "ended": True}
                | {"logprobs": logprobs, "hits": hits}
                for i, (logprobs, hits, *_) in enumerate(scored)
            ],
            MANIFEST,
        )
        assert exact_memorization(table).per_example == pytest.approx(wanted["exact_memorization"], rel=1e-6)
        strengths = extraction_strength(table, floor="as_reference", final_token="as_reference").per_example
        assert strengths == pytest.approx(wanted["extraction_strength"], rel=1e-6)
        assert scores(table, "min_k") == pytest.approx(wanted["min_k_40"], rel=2e-6)


def test_truncated_answers_are_counted_once_in_a_warning(model, tokenizer, corpus):
    longest = max(len(row.ids) for row in encode(corpus["forget"], tokenizer))
    with pytest.warns(UserWarning, match=r"1 of 5 rows are longer than max_length=\d+ and lost 1 tokens"):
        found = collect(
            model, tokenizer, corpus, [Probe(split="forget", generate=True, max_new_tokens=3)], max_length=longest - 1
        )
    assert sorted(found.column("ended")) == [False] + [True] * 4


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks for an old name
def test_an_adapter_is_seen_through(model, tokenizer, corpus):
    from peft import LoraConfig, get_peft_model

    base = zoo.tiny_model("llama", seed=1, max_position_embeddings=512)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    probe = Probe(split="forget", generate=True, max_new_tokens=4)
    found, plain = (collect(m, tokenizer, corpus, [probe]) for m in (adapted, model))
    assert found.manifest.inputs["model"] != plain.manifest.inputs["model"]
    merged = collect(adapted.merge_and_unload(), tokenizer, corpus, [probe])
    assert np.concatenate(found.arrays("logprobs")) == pytest.approx(
        np.concatenate(merged.arrays("logprobs")), abs=1e-4
    )
    assert found.column("generation") == merged.column("generation") != plain.column("generation")


def test_records_hold_where_tokens_end_unless_texts_are_left_out(records, corpus):
    for answer in ("answer", "paraphrased", "perturbed"):
        found = records.where(split="forget", asked="question", answer=answer)
        for text, ends, logprobs in zip(*(found.column(c) for c in ("completion", "ends", "logprobs")), strict=True):
            assert len(ends) == len(logprobs) and ends == sorted(ends) and ends[-1] == len(text)
            assert 0 < ends[0] < len(text)
    assert records.where(answer="continuation").table["ends"].null_count == len(corpus["forget"])  # a part of a text
    for texts in ("hash", "drop"):
        hidden = records.with_texts(texts).table
        assert hidden["ends"].null_count == len(hidden) and str(hidden.schema.field("ends").type) == "list<item: int32>"
