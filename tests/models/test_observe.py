"""Observables of every architecture against a plain forward pass."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from expunge.core.batch import Batch, collate
from expunge.core.checks import ExpungeError
from expunge.data.tokenizing import encode
from expunge.models import observe as module
from expunge.models import vocabulary_head
from expunge.models.anatomy import backbone, blocks, down_projection, head
from expunge.models.observe import observe

ALL = frozenset({"token_logprobs", "hits", "logits", "hidden"})


def batches() -> dict[str, Batch]:
    corpus = zoo.corpus(5, 7)
    return {name: collate(encode(corpus[name], zoo.tokenizer())) for name in ("forget", "retain")}


def plainly(model: nn.Module, batch: Batch, layer: int) -> list[dict[str, Tensor]]:
    """The same, row by row without padding, from the model's own full output."""
    rows = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        ids, labels = ids[mask.bool()][None], labels[mask.bool()]
        kept: list[Tensor] = []
        handle = blocks(model)[layer].register_forward_hook(
            lambda _m, _i, out, kept=kept: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        logits = model(input_ids=ids, use_cache=False).logits[0]
        handle.remove()
        at = (labels != -100).nonzero()[:, 0]
        logprobs = torch.log_softmax(logits[at - 1].float(), -1).gather(-1, ids[0, at, None])[:, 0]
        rows.append(
            {
                "logits": logits[at - 1],
                "token_logprobs": logprobs,
                "hidden": kept[0][0, at],
                "hits": logits[at - 1].argmax(-1) == ids[0, at],
            }
        )
    return rows


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_equal_to_a_plain_forward_pass(architecture: str) -> None:
    model, given = zoo.tiny_model(architecture), batches()
    seen = observe(model, given, {"forget": ALL, "retain": ALL}, layer=1)
    for stream, batch in given.items():
        for i, row in enumerate(plainly(model, batch, layer=1)):
            mask = seen[stream].completion_mask[i]
            assert int(mask.sum()) == len(row["token_logprobs"])
            for name, want in row.items():
                got = getattr(seen[stream], name)[i][mask]
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_decoder_and_head_alone_suffice(architecture: str) -> None:
    model = zoo.tiny_model(architecture)
    assert vocabulary_head.head_of(model).plain


def test_a_head_that_does_more_falls_back_on_full_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny_model("llama")
    inner = model.forward

    def doubled(*args: Any, **kwargs: Any) -> Any:
        out = inner(*args, **kwargs)
        out.logits = out.logits * 2
        return out

    model.forward = doubled
    given = batches()
    seen = observe(model, {"forget": given["forget"]}, {"forget": ALL}, layer=1)["forget"]
    assert not vocabulary_head.head_of(model).plain
    for i, row in enumerate(plainly(model, given["forget"], layer=1)):
        torch.testing.assert_close(
            seen.token_logprobs[i][seen.completion_mask[i]], row["token_logprobs"], rtol=1e-4, atol=1e-5
        )
    assert model.forward is doubled  # what the caller had put there is put back


def test_prompt_and_padding_never_pass_the_head() -> None:
    model, given = zoo.tiny_model(), batches()
    seen: list[int] = []
    vocabulary_head.head_of(model)  # tried out beforehand
    head(model).register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].numel() // inputs[0].shape[-1]))
    observe(model, given, {name: frozenset({"token_logprobs"}) for name in given})
    assert sum(seen) == sum(int((b["labels"] != -100).sum()) for b in given.values())


def test_hidden_states_alone_stop_after_their_block() -> None:
    model, given = zoo.tiny_model(), batches()
    run: list[int] = []
    for i, block in enumerate(blocks(model)):
        block.register_forward_pre_hook(lambda _m, _i, i=i: run.append(i))
    head(model).register_forward_pre_hook(lambda _m, _i: run.append(99))
    observe(model, given, {name: frozenset({"hidden"}) for name in given}, layer=1)
    assert set(run) == {0, 1}


def test_hidden_states_of_the_last_block_are_not_normalized() -> None:
    model, given = zoo.tiny_model(), {"forget": batches()["forget"]}
    last = len(blocks(model)) - 1
    seen = observe(model, given, {"forget": frozenset({"hidden"})}, layer=last)["forget"]
    want = plainly(model, given["forget"], layer=last)
    torch.testing.assert_close(seen.hidden[0][seen.completion_mask[0]], want[0]["hidden"], rtol=1e-4, atol=1e-5)


def test_predicting_positions_lie_one_earlier() -> None:
    model, given = zoo.tiny_model(), {"forget": batches()["forget"]}
    hold = observe(model, given, {"forget": frozenset({"hidden"})}, layer=1)["forget"]
    predict = observe(model, given, {"forget": frozenset({"hidden"})}, layer=1, positions="predicting")["forget"]
    torch.testing.assert_close(predict.hidden[0, 1:3], hold.hidden[0, 0:2], rtol=1e-5, atol=1e-6)


def test_chunks_change_neither_values_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    given = batches()
    needs = {name: frozenset({"logprobs", "token_logprobs"}) for name in given}

    def gradients() -> tuple[Tensor, dict[str, Tensor]]:
        model = zoo.tiny_model().double()
        value = sum(seen.logprobs.sum() for seen in observe(model, given, needs).values())
        value.backward()
        return value.detach(), {name: p.grad for name, p in model.named_parameters()}

    whole, whole_gradients = gradients()
    monkeypatch.setattr(vocabulary_head, "HEAD_CHUNK", 5 * len(zoo.tokenizer()))
    value, chunked = gradients()
    torch.testing.assert_close(value, whole, rtol=1e-12, atol=0)
    for name, gradient in chunked.items():
        torch.testing.assert_close(gradient, whole_gradients[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cost", [0, 10**9])
def test_grouping_by_length_changes_no_value(monkeypatch: pytest.MonkeyPatch, cost: int) -> None:
    model, given = zoo.tiny_model().double(), batches()
    needs = {name: frozenset({"token_logprobs"}) for name in given}
    want = observe(model, given, needs)
    monkeypatch.setattr(module, "GROUP_COST", cost)
    got = observe(model, given, needs)
    for name in given:
        torch.testing.assert_close(got[name].token_logprobs, want[name].token_logprobs, rtol=1e-6, atol=1e-9)


def test_groups_hold_every_row_once_and_cut_padding() -> None:
    lengths = torch.tensor([200, 10, 11, 198, 12, 10])
    groups = module.groups_of_like_length(lengths)
    assert [rows.tolist() for rows in groups] == [[1, 2, 4, 5], [0, 3]]


def test_errors() -> None:
    model, given = zoo.tiny_model(), {"forget": batches()["forget"]}
    with pytest.raises(ExpungeError, match=r"no observable is called \['logit'\].*Known: logprobs"):
        observe(model, given, {"forget": frozenset({"logit"})})
    with pytest.raises(ExpungeError, match="layer must be between 0 and 2 for this model; got 3"):
        observe(model, given, {"forget": frozenset({"hidden"})}, layer=3)


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_the_parts_are_found(architecture: str) -> None:
    model = zoo.tiny_model(architecture)
    assert len(blocks(model)) == 3
    weight = down_projection(blocks(model)[0]).weight
    assert sorted(weight.shape)[0] == 32 and weight.numel() == 32 * max(weight.shape)
    assert backbone(model) is not model
