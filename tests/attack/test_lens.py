"""The logit lens against models that end earlier."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import zoo
from expunge.attack.attacks import lens as module
from expunge.attack.attacks.lens import lens
from expunge.data.corpus import Corpus
from expunge.data.tokenizing import encode
from expunge.models.anatomy import blocks


def plainly(model: nn.Module, corpus: Corpus) -> tuple[list[float], list[float]]:
    """Geometric mean probability and mean rank of each answer's tokens, row by row, the end token left out."""
    probabilities, ranks = [], []
    for row in encode(corpus["forget"], zoo.tokenizer()):
        ids = torch.tensor(row.ids[:-1])
        with torch.no_grad():
            logits = model(input_ids=ids[None], use_cache=False).logits[0, row.start - 1 : -1].double()
        order = logits.argsort(-1, descending=True).tolist()
        targets = ids[row.start :].tolist()
        probabilities.append(logits.softmax(-1)[range(len(targets)), targets].log().mean().exp().item())
        ranks.append(sum(of.index(target) + 1 for of, target in zip(order, targets, strict=True)) / len(targets))
    return probabilities, ranks


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_a_block_is_read_as_if_the_model_ended_there(architecture: str) -> None:
    model, corpus = zoo.tiny_model(architecture), zoo.corpus()
    (found,) = lens(model, zoo.tokenizer(), corpus)
    by_block = []
    for block in range(3):
        shorter = copy.deepcopy(model)
        del blocks(shorter)[block + 1 :]
        probabilities, ranks = plainly(shorter, corpus)
        by_block.append(torch.tensor(probabilities))
        assert found.about["probability_by_block"][block] == pytest.approx(sum(probabilities) / 6, rel=1e-3)
        assert found.about["rank_by_block"][block] == pytest.approx(sum(ranks) / 6, abs=0.1)
    best = torch.stack(by_block).max(0)
    assert found.about["best_block"] == best.indices.tolist()
    assert_close(torch.tensor(found.values), best.values.float(), rtol=1e-3, atol=1e-6)


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, corpus, tokenizer = zoo.tiny_model(), zoo.corpus(), zoo.tokenizer()
    (whole,) = lens(model, tokenizer, corpus)
    rows, sizes = module.answer_rows(model, tokenizer, corpus["forget"]), []
    most = 2 * len(tokenizer) * max(len(row.ids) - row.start for row in rows)
    monkeypatch.setattr(module, "HEAD_CHUNK", most)

    def seen(*args: object) -> object:
        found = real(*args)
        sizes.append(found.logits.numel())
        return found

    real = module.seen
    monkeypatch.setattr(module, "seen", seen)
    (parted,) = lens(model, tokenizer, corpus)
    assert len(sizes) == 9 and max(sizes) <= most  # three batches of two rows, three blocks
    assert parted.values == pytest.approx(whole.values, rel=1e-4)
    (one,) = lens(model, tokenizer, Corpus({"forget": corpus["forget"][3:4]}))
    assert one.values == pytest.approx(whole.values[3:4], rel=1e-4)
