"""Gradient surgery: the hand-worked projection, and a step that is what the formula says."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import expunge
import zoo
from expunge.training.loss import compute_loss
from expunge.training.surgery import Surgery, project
from expunge.training.trainer import ObjectiveTrainer


def test_by_hand():
    # <f, r> = 3*(-4) + 1*3 = -9, |r|^2 = 25: f + 9/25 r = (3 - 1.44, 1 + 1.08) = (1.56, 2.08), which is at right angles
    # to r: -6.24 + 6.24 = 0. cosine = -9 / (sqrt(10) * 5) = -0.5692.
    forget, retain = [torch.tensor([3.0]), torch.tensor([1.0])], [torch.tensor([-4.0]), torch.tensor([3.0])]
    projected, cosine = project(forget, retain)
    assert torch.cat(projected).tolist() == pytest.approx([1.56, 2.08])
    assert cosine == pytest.approx(-0.5692, abs=1e-4)


def test_gradients_that_agree_stay_as_they_are():
    forget = [torch.tensor([1.0, 2.0])]
    projected, cosine = project(forget, [torch.tensor([2.0, 0.0])])
    assert projected[0] is forget[0]
    assert cosine > 0
    assert project(forget, [torch.zeros(2)]) == (forget, 0.0)


@given(st.integers(0, 10_000))
def test_the_result_never_raises_the_retain_loss(seed: int):
    generator = torch.Generator().manual_seed(seed)
    forget, retain = ([torch.randn(n, generator=generator).double() for n in (3, 5)] for _ in range(2))
    projected, _ = project(forget, retain)
    assert float(torch.cat(projected) @ torch.cat(retain)) >= -1e-12


def gradient(model, batches, **how):
    model.zero_grad()
    compute_loss(model, forget=batches["forget"], retain=batches.get("retain"), **how).backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("micro", [None, 1])
def test_every_step_is_that_of_the_formula(monkeypatch: pytest.MonkeyPatch, micro: int | None):
    seen = []

    def plain(self, model=None):
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        return self.optimizer

    monkeypatch.setattr(ObjectiveTrainer, "create_optimizer", plain)
    get = ObjectiveTrainer.get_batch_samples

    def noted(self, *arguments):
        batches, totals = get(self, *arguments)
        rows = self.train_dataset
        seen.append(rows.collate([rows[k] for k in range(len(seen) * 4, min(len(seen) * 4 + 4, len(rows)))]))
        return batches, totals

    monkeypatch.setattr(ObjectiveTrainer, "get_batch_samples", noted)
    model = zoo.tiny_model("llama").double()
    by_hand = zoo.tiny_model("llama").double()
    by_hand.load_state_dict(model.state_dict())
    run = expunge.unlearn(
        model, zoo.tokenizer(), zoo.corpus(), method="grad_diff", surgery="gru", smoothing=0.5, epochs=2, batch_size=4,
        micro_batch_size=micro, learning_rate=0.05, warmup=0, schedule="constant", max_grad_norm=0, weight_decay=0.0,
    )  # fmt: skip
    mean = None
    cosines = []
    for batches in seen:
        forget = gradient(by_hand, {"forget": batches["forget"]}, method="grad_ascent", retain_loss="none")
        both = gradient(by_hand, batches, method="grad_ascent", retain_loss="nll", alpha=1.0)
        retain = [b - f for b, f in zip(both, forget, strict=True)]
        mean = retain if mean is None else [0.5 * r + 0.5 * m for r, m in zip(retain, mean, strict=True)]
        projected, cosine = project(forget, mean)
        cosines.append(cosine)
        with torch.no_grad():
            for p, g in zip(by_hand.parameters(), projected, strict=True):
                p -= 0.05 * g
    assert [row["gradient_cosine"] for row in run.history] == pytest.approx(cosines, rel=1e-6)
    for (name, ours), theirs in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9), name


def test_the_running_mean_survives_a_checkpoint(tmp_path: Path):
    model = zoo.tiny_model("llama")
    one, other = Surgery(model, smoothing=0.8), Surgery(model, smoothing=0.8)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    one.swap()
    one.operate()
    one.save(tmp_path)
    other.load(tmp_path)
    assert one.mean.keys() == other.mean.keys()
    assert all(torch.equal(one.mean[name], other.mean[name]) for name in one.mean)


def test_surgery_needs_a_retain_loss():
    with pytest.raises(expunge.ExpungeError, match="surgery=gru needs a retain loss"):
        expunge.unlearn(
            zoo.tiny_model("llama"), zoo.tokenizer(), zoo.corpus(), method="npo", retain="none", surgery="gru"
        )
