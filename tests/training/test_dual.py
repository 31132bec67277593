"""The multiplier of primal-dual training."""

from pathlib import Path
from typing import Any

import pytest
import torch

import expunge
import zoo
from expunge.training.dual import raised


def test_by_hand():
    # 2 + 5 * (0.7 - 0.3) = 4; 1 + 5 * (0.1 - 0.5) = -1, which is below 0.
    assert raised(2.0, 0.7, eps=0.3, step=5.0) == pytest.approx(4.0)
    assert raised(1.0, 0.1, eps=0.5, step=5.0) == 0.0


def pdu(folder: Path | None = None, **changes: Any) -> expunge.Run:
    settings = {"eps": 1.0, "dual_step": 0.5, "dual_warmup": 1.0, "alpha": 2.0, "epochs": 3, "batch_size": 4}
    return expunge.unlearn(
        zoo.tiny_model("llama"), zoo.tokenizer(), zoo.corpus(), method="pdu", output_dir=folder,
        **{"learning_rate": 1e-3, **settings, **changes},
    )  # fmt: skip


def test_the_multiplier_rests_in_the_warmup_and_then_follows_the_retain_loss():
    history = pdu().history
    per_epoch = round(len(history) / 3)
    multipliers = [row["multiplier"] for row in history]
    assert multipliers[:per_epoch] == [2.0] * per_epoch
    for before, row, after in zip(
        multipliers[per_epoch - 1 :], history[per_epoch:], multipliers[per_epoch:], strict=False
    ):
        assert after == pytest.approx(max(0.0, before + 0.5 * (row["retain_loss"] - 1.0)))
    assert len(set(multipliers)) > 2


def test_it_does_not_depend_on_how_the_step_is_cut():
    whole, cut = pdu(), pdu(micro_batch_size=1)
    assert [r["multiplier"] for r in whole.history] == pytest.approx([r["multiplier"] for r in cut.history], rel=1e-5)


def test_a_missing_eps_is_told_the_start_models_loss():
    with pytest.raises(expunge.ExpungeError, match=r"the start model's is \d+\.\d+ nats a token here; give eps="):
        pdu(eps=None)


def test_without_retain_loss_there_is_nothing_to_hold():
    with pytest.raises(expunge.ExpungeError, match="pdu needs a retain loss"):
        pdu(retain="none")


def test_a_resumed_run_takes_the_multiplier_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = pdu(tmp_path / "whole")
    from expunge.training.callbacks import Clock

    class Killed(Exception):
        pass

    original = Clock.on_step_end

    def kill(self, args, state, control, **more):
        original(self, args, state, control, **more)
        if state.global_step == 2 * round(len(whole.history) / 3) + 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Clock, "on_step_end", kill)
        with pytest.raises(Killed):
            pdu(tmp_path / "cut")
    resumed = pdu(tmp_path / "cut", resume=True)
    assert [r["multiplier"] for r in resumed.history] == [r["multiplier"] for r in whole.history]
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
