"""The depth score by hand, activation patching against single rows, and the order of models that know more and less."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

import expunge
import zoo
from expunge.attack.attack import attack
from expunge.attack.attacks.depth import depth, depth_score, drops
from expunge.attack.hidden import answer_rows, mean_logprobs
from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus
from expunge.models.anatomy import backbone, blocks
from expunge.models.load import load_model, save_model


def test_the_score_by_hand() -> None:
    retain = np.array([[1.0, 3.0, 0.04], [2.0, 0.0, -1.0], [0.05, 0.0, 0.0]])
    unlearned = np.array([[0.5, 4.0, 9.0], [-1.0, 5.0, 5.0], [1.0, 1.0, 1.0]])
    # (1 * 0.5 + 3 * 1) / 4, the third block says too little; no less than 0; no block at all
    assert_allclose(depth_score(retain, unlearned), [0.875, 0.0, np.nan])
    assert_allclose(depth_score(retain, unlearned, least_drop=0.01)[:1], [(0.5 + 3 + 0.04) / 4.04])
    assert_allclose(depth_score(retain, retain)[:2], 1.0)
    assert_allclose(depth_score(retain, np.zeros((3, 3)))[:2], 0.0)


def rows_for(model: PreTrainedModel) -> list[Encoded]:
    return answer_rows(model, zoo.tokenizer(), zoo.corpus()["forget"])


def changed(model: PreTrainedModel, part: nn.Module) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter += 0.1 * torch.randn_like(parameter)


def test_a_change_is_lost_from_its_block_on() -> None:
    target = zoo.tiny_model()
    rows = rows_for(target)
    assert (drops(target, copy.deepcopy(target), rows) == 0).all()
    source = copy.deepcopy(target)
    changed(source, blocks(source)[1])
    found, own = drops(target, source, rows), mean_logprobs(target, rows) - mean_logprobs(source, rows)
    assert (found[:, 0] == 0).all() and np.abs(found[:, 1]).min() > 1e-3
    # After the last block nothing but norm and head follows, which the two models share.
    assert_allclose(found[:, 2], own.detach().numpy(), rtol=1e-4, atol=1e-5)
    source = copy.deepcopy(target)
    changed(source, backbone(source).norm)  # type: ignore[arg-type]
    assert (drops(target, source, rows) == 0).all() and not torch.allclose(
        mean_logprobs(target, rows), mean_logprobs(source, rows), atol=1e-3
    )


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_patching_equals_single_rows(architecture: str) -> None:
    target, source = zoo.tiny_model(architecture, seed=0), zoo.tiny_model(architecture, seed=1)
    rows = rows_for(target)
    found = drops(target, source, rows)
    for i, row in enumerate(rows):
        ids, targets = torch.tensor([row.ids]), torch.tensor(row.ids[row.start :])

        def mean(model: nn.Module, ids: torch.Tensor = ids, targets: torch.Tensor = targets) -> float:
            with torch.no_grad():
                logits = model(input_ids=ids, use_cache=False).logits[0, -len(targets) - 1 : -1]
            return logits.log_softmax(-1).gather(-1, targets[:, None]).mean().item()

        for block in range(3):
            kept = []
            handle = blocks(source)[block].register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out))
            mean(source)
            handle.remove()

            def patch(
                _module: nn.Module, _inputs: object, out: object, kept: list = kept, row: Encoded = row
            ) -> object:
                own, other = (o[0] if isinstance(o, tuple) else o for o in (out, kept[0]))
                mixed = torch.cat([own[:, : row.start - 1], other[:, row.start - 1 : -1], own[:, -1:]], 1)
                return (mixed, *out[1:]) if isinstance(out, tuple) else mixed

            plain = mean(target)
            handle = blocks(target)[block].register_forward_hook(patch)
            lost = plain - mean(target)
            handle.remove()
            assert found[i, block] == pytest.approx(lost, rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_the_order_of_start_unlearned_and_retain_model(shared_data: Path) -> None:
    start, retain = (str(shared_data / "models/tofu7m" / name) for name in ("start", "retain"))
    tokenizer = AutoTokenizer.from_pretrained(start)
    whole = expunge.load_corpus("files", forget=str(shared_data / "tofu7m/forget.jsonl"))
    corpus = Corpus({"forget": whole["forget"][:8]})
    knows, never = load_model(start), load_model(retain)
    partly = copy.deepcopy(knows)
    with torch.no_grad():
        for own, other in zip(partly.parameters(), never.parameters(), strict=True):
            own.lerp_(other, 0.3)

    def values(settings: dict[str, str]) -> list[tuple[float, ...]]:
        found = [depth(m, tokenizer, corpus, start=start, **settings)[0] for m in (knows, partly, never)]
        assert all(leak.facts == tuple(range(8)) for leak in found)
        assert all(leak.needs_control is not bool(settings) for leak in found)
        return [leak.values for leak in found]

    for settings in ({"retain": retain}, {}):
        most, some, least = values(settings)
        assert set(most) == {1.0}
        assert all(1 > a > b for a, b in zip(some, least, strict=True))
        assert not settings or set(least) == {0.0}


def test_facts_that_no_block_knows_are_left_out(tmp_path: Path) -> None:
    model, corpus = zoo.tiny_model(), zoo.corpus()
    folder = str(save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "start"))
    (found,) = depth(model, zoo.tokenizer(), corpus, start=folder, retain=folder)
    assert found.facts == () and found.measure == "1 - unlearning depth score"
    assert found.about["retain_drop_by_block"] == found.about["drop_by_block"] == [0.0, 0.0, 0.0]


def test_untaught_facts_are_no_control(tmp_path: Path) -> None:
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    folder = str(save_model(zoo.tiny_model(seed=2), tokenizer, tmp_path / "start"))
    how = {"attacks": ("depth",), "settings": {"depth": {"start": folder}}}
    alone = attack(model, tokenizer, corpus, **how)["depth"]  # type: ignore[arg-type]
    assert (alone.status, alone.control, alone.recovery) == ("no control", None, {})
    assert alone.note.startswith("untaught facts are no control for it; name a model")
    beside = attack(model, tokenizer, corpus, control=zoo.tiny_model(seed=1), **how)["depth"]  # type: ignore[arg-type]
    assert beside.status == "ran" and beside.note == "" and len(beside.recovery) == 6


def test_mistakes(tmp_path: Path) -> None:
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    other = str(save_model(zoo.tiny_model(num_hidden_layers=2), tokenizer, tmp_path / "other"))
    with pytest.raises(ExpungeError, match=r"has 2 blocks with hidden states of size 32, and the attacked model 3 of"):
        depth(model, tokenizer, corpus, start=other)
    with pytest.raises(ExpungeError, match="least_drop must be at least 0"):
        depth(model, tokenizer, corpus, start=other, least_drop=-1)
