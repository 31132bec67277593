"""Outputs of blocks, read and replaced, against the model run row by row."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel

import zoo
from expunge.attack import hidden
from expunge.attack.hidden import answer_rows, batches, block_outputs, frozen, mean_logprobs, rewritten
from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError
from expunge.data.tokenizing import encode
from expunge.models.anatomy import blocks


def rows_for(model: PreTrainedModel) -> list[Encoded]:
    return answer_rows(model, zoo.tokenizer(), zoo.corpus()["forget"])


def alone(model: nn.Module, row: Encoded) -> tuple[list[Tensor], Tensor]:
    """Every block's output and the answer's mean log-probability, from one row without padding."""
    kept: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _m, _i, out: kept.append(out[0] if isinstance(out, tuple) else out))
        for block in blocks(model)
    ]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    targets = torch.tensor(row.ids[row.start :])
    chosen = logits[row.start - 1 : -1].log_softmax(-1).gather(-1, targets[:, None])
    return [states[0] for states in kept], chosen.mean()


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_outputs_of_blocks_stand_at_their_row_and_position(architecture: str) -> None:
    model = zoo.tiny_model(architecture)
    rows = rows_for(model)
    assert len({len(row.ids) for row in rows}) > 2  # so that there is padding
    outputs, means = block_outputs(model, rows), mean_logprobs(model, rows)
    assert len(outputs) == 3
    for i, row in enumerate(rows):
        states, mean = alone(model, row)
        assert_close(means[i], mean, rtol=1e-4, atol=1e-5)
        for block in range(3):
            assert_close(outputs[block][i, : len(row.ids)], states[block], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_later_blocks_see_what_replaces_an_output(architecture: str) -> None:
    model = zoo.tiny_model(architecture)
    rows = rows_for(model)
    plain, outputs = mean_logprobs(model, rows), block_outputs(model, rows)
    with rewritten(blocks(model)[1], lambda states: states + 0):
        assert torch.equal(mean_logprobs(model, rows), plain)
    with rewritten(blocks(model)[1], lambda states: -states):
        changed = block_outputs(model, rows)
    assert torch.equal(changed[0], outputs[0]) and not torch.allclose(changed[2], outputs[2], atol=1e-2)
    assert torch.equal(mean_logprobs(model, rows), plain)  # and nothing of it stays


def test_rows_end_with_the_answer() -> None:
    model, facts = zoo.tiny_model(), zoo.corpus()["forget"]
    ends = [row.ids[-1] for row in encode(facts, zoo.tokenizer())]
    assert set(ends) == {zoo.tokenizer().eos_token_id}
    for row, fact in zip(answer_rows(model, zoo.tokenizer(), facts), facts, strict=True):
        assert zoo.tokenizer().decode(row.ids[row.start :]).strip() == fact.completion
    chatting = copy.deepcopy(zoo.tokenizer())
    chatting.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    for row, fact in zip(answer_rows(model, chatting, facts), facts, strict=True):
        assert chatting.decode(row.prompt_ids).startswith("user: ")
        assert chatting.decode(row.ids[row.start :]).strip() == fact.completion
    with pytest.raises(ExpungeError, match="tokenizer and model do not fit"):
        answer_rows(zoo.tiny_model(vocab_size=40), zoo.tokenizer(), facts)


def test_every_row_is_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def numbered(found: Sequence[Sequence[int]]) -> list[int]:
        return sorted(number for part in found for number in part)

    rows = [Encoded(tuple(range(n)), 1, False, 0) for n in (3, 9, 5, 9, 2)]
    assert numbered(batches(rows)) == list(range(5))
    assert [len(part) for part in batches(rows, size=2)] == [2, 2, 1]
    monkeypatch.setattr(hidden, "BATCH_TOKENS", 18)
    assert batches(rows) == [[1, 3], [2, 0, 4]]


def test_a_frozen_model_is_as_before_afterwards() -> None:
    model = zoo.tiny_model().train()
    first, *others = model.parameters()
    first.requires_grad_(False)
    with pytest.raises(RuntimeError, match="on the way"), frozen(model):
        assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
        raise RuntimeError("on the way")
    assert model.training and not first.requires_grad and all(parameter.requires_grad for parameter in others)
