"""Reference values: the same numbers however they are had, keyed by content."""

import math
from pathlib import Path

import pytest
import torch

import expunge
import zoo
from expunge.data.tokenizing import encode
from expunge.models import reference as module
from expunge.models.reference import KEEP_AT_MOST, bytes_kept, choose, kept_of, precompute

METHODS = [
    {"method": "npo"},
    {"method": "dpo"},
    {"method": "tnpo"},
    {"method": "kl_min"},
    {"method": "grad_diff", "retain": "kl"},
    {"method": "undial"},
    {"method": "rmu", "layer": 1},
    {"method": "adaptive_rmu", "layer": 1},
    {"method": "npo", "retain": "hidden", "layer": 1},
]


@pytest.mark.parametrize("how", METHODS, ids=lambda how: "-".join(map(str, how.values())))
def test_precomputed_and_second_model_train_alike(how: dict) -> None:
    results = []
    for reference in ("precomputed", "model"):
        model = zoo.tiny_model().double()
        run = expunge.unlearn(
            model,
            zoo.tokenizer(),
            zoo.corpus(),
            **how,
            reference=reference,
            epochs=2,
            batch_size=4,
            learning_rate=1e-3,
        )
        results.append((run.history, dict(model.named_parameters())))
    (first, one), (second, two) = results
    assert [r["forget_loss"] for r in first] == pytest.approx([r["forget_loss"] for r in second], rel=1e-6)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-7)


def test_the_cache_is_keyed_by_content_not_by_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path))
    rows = encode(zoo.corpus()["forget"], zoo.tokenizer())
    calls: list[int] = []
    watched = module.observe
    monkeypatch.setattr(module, "observe", lambda *a, **k: calls.append(1) or watched(*a, **k))
    model = zoo.tiny_model()
    table = precompute(model, rows)
    assert len(calls) == 1
    again = precompute(
        zoo.tiny_model(), encode(zoo.corpus()["forget"], zoo.tokenizer())
    )  # other objects, the same content
    assert len(calls) == 1
    assert torch.equal(again.values["token_logprobs"], table.values["token_logprobs"])
    with torch.no_grad():
        model.lm_head.weight[7, 3] += 1e-3
    precompute(model, rows)
    assert len(calls) == 2  # one changed weight
    precompute(zoo.tiny_model(), rows[:-1])
    assert len(calls) == 3  # one row less


def test_batch_size_and_order_do_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = encode(zoo.corpus()["retain"], zoo.tokenizer())
    tables = []
    for size in (1, 3, 32):
        monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / str(size)))
        tables.append(precompute(zoo.tiny_model(), rows, batch_size=size))
    for table in tables[1:]:
        torch.testing.assert_close(
            table.values["token_logprobs"], tables[0].values["token_logprobs"], rtol=1e-5, atol=1e-6
        )


def test_a_cache_entry_of_other_content_or_a_damaged_one_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path))
    rows = encode(zoo.corpus()["forget"], zoo.tokenizer())
    table = precompute(zoo.tiny_model(), rows)
    (entry,) = (tmp_path / "reference").iterdir()
    precompute(zoo.tiny_model(seed=1), rows)
    (other,) = set((tmp_path / "reference").iterdir()) - {entry}
    right, wrong = entry.read_bytes(), other.read_bytes()
    # Of another key; other values under the right key, which are a tensor file's last bytes; cut off; empty.
    for content in (wrong, right[:-64] + wrong[-64:], right[:-64], b""):
        entry.write_bytes(content)
        again = precompute(zoo.tiny_model(), rows)
        assert torch.equal(again.values["token_logprobs"], table.values["token_logprobs"])
        assert len(entry.read_bytes()) == len(right)


def test_policy() -> None:
    assert choose("auto", {}) == "none"
    needs = {"retain": frozenset({"logits"})}
    assert choose("auto", needs, size=KEEP_AT_MOST) == "precomputed"
    assert choose("auto", needs, size=KEEP_AT_MOST + 1) == "model"
    assert choose("model", needs) == "model"
    assert choose("precomputed", needs, size=10 * KEEP_AT_MOST) == "precomputed"


def test_what_is_kept_and_how_much_of_it() -> None:
    # 10 tokens in float32: one number each for log-probabilities; 32 for hidden states, which logits follow from, too.
    model = zoo.tiny_model()
    config = model.config
    assert kept_of({"logprobs", "completion_mask"}) == ("token_logprobs",)
    assert bytes_kept(model, 10, {"logprobs", "token_logprobs"}) == 40
    assert bytes_kept(model, 10, {"hidden", "completion_mask"}) == 40 * config.hidden_size
    assert kept_of({"logits"}) == kept_of({"states", "targets"}) == ("states",)
    assert bytes_kept(model, 10, {"logits", "logprobs"}) == 40 * (config.hidden_size + 1)


def test_only_rows_that_the_run_meets_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    watched = module.observe
    monkeypatch.setattr(
        module, "observe", lambda m, b, *a, **k: seen.append(len(b["rows"]["input_ids"])) or watched(m, b, *a, **k)
    )
    expunge.unlearn(
        zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), method="kl_min", epochs=0.5, batch_size=2, reference="auto"
    )
    assert sum(seen) == round(0.5 * len(zoo.corpus()["forget"]))  # one retain row for each forget row met


def test_a_row_that_was_not_kept_is_never_taken_for_zeros() -> None:
    rows = encode(zoo.corpus()["retain"], zoo.tokenizer())
    table = precompute(zoo.tiny_model(), rows, used=[0, 2])
    lengths = torch.tensor([len(rows[i].ids) - rows[i].start for i in range(3)])
    assert table.rows("token_logprobs", torch.tensor([2, 0]), lengths[[2, 0]]).shape == (2, int(lengths[[0, 2]].max()))
    with pytest.raises(AssertionError, match="row 1 has"):
        table.rows("token_logprobs", torch.tensor([1]), lengths[[1]])


def test_reference_values_round_as_training_does() -> None:
    # At the reference model NPO is (2 / beta) ln 2 = 13.863 for beta 0.1; values of another precision move it.
    for reference in ("precomputed", "model"):
        run = expunge.unlearn(
            zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), method="npo", reference=reference, epochs=1,
            batch_size=len(zoo.corpus()["forget"]), precision="bfloat16",
        )  # fmt: skip
        assert run.history[0]["forget_loss"] == pytest.approx(20 * math.log(2), rel=1e-3)
