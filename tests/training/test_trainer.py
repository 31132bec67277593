"""The step: the same update however it is cut, the same pairs for every process, no spoiled weights."""

import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import expunge
import zoo
from expunge.training.loss import compute_loss
from expunge.training.rows import RunRows
from expunge.training.trainer import NonFiniteLoss, ObjectiveTrainer
from expunge.training.training_config import TrainingConfig


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def run(
    method: str = "grad_diff", *, micro: int | None = None, architecture: str = "llama", **settings: object
) -> dict[str, torch.Tensor]:
    model = zoo.tiny_model(architecture).double()
    defaults = {
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.05,
        "warmup": 0,
        "max_grad_norm": 0,
        "weight_decay": 0.0,
    }
    expunge.unlearn(
        model, zoo.tokenizer(), zoo.corpus(), method=method, micro_batch_size=micro, **(defaults | settings)
    )
    return weights(model)


class SGD(torch.optim.SGD):
    """Plain descent shows the scale of a gradient, which AdamW and clipping hide."""


@pytest.fixture
def plain_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(self: ObjectiveTrainer, model: nn.Module | None = None) -> torch.optim.Optimizer:
        self.optimizer = SGD([p for p in self.model.parameters() if p.requires_grad], lr=self.args.learning_rate)
        return self.optimizer

    monkeypatch.setattr(ObjectiveTrainer, "create_optimizer", create)


@pytest.mark.parametrize("method", ["grad_ascent", "grad_diff", "npo", "simnpo", "dpo", "rmu"])
@pytest.mark.usefixtures("plain_descent")
def test_an_update_does_not_depend_on_how_the_step_is_cut(method: str) -> None:
    extra = {"learning_rate": 0.01, "layer": 1} if method == "rmu" else {"learning_rate": 0.01}
    whole = run(method, **extra)
    for micro in (1, 2):
        cut = run(method, micro=micro, **extra)
        for name in whole:  # the norms of these models compute in float32 even where the weights are float64
            torch.testing.assert_close(cut[name], whole[name], rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.usefixtures("plain_descent")
def test_one_step_is_one_step_of_compute_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict] = []
    collate = RunRows.collate
    monkeypatch.setattr(RunRows, "collate", lambda self, items: seen.append(collate(self, items)) or seen[-1])
    trained = run("grad_diff", epochs=4 / 6)  # one step of four rows
    model = zoo.tiny_model().double()
    loss = compute_loss(model, forget=seen[0]["forget"], retain=seen[0]["retain"], method="grad_diff")
    loss.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(trained[name], p.detach() - 0.05 * p.grad, rtol=1e-9, atol=1e-12)


def test_history_holds_the_losses_apart() -> None:
    model = zoo.tiny_model()
    result = expunge.unlearn(
        model, zoo.tokenizer(), zoo.corpus(), method="npo", epochs=2, batch_size=4, learning_rate=1e-3
    )
    assert [row["step"] for row in result.history] == [1, 2, 3]
    # At the reference NPO is (2 / beta) ln 2 = 20 ln 2 for every row, whatever the rows.
    assert result.history[0]["forget_loss"] == pytest.approx(20 * math.log(2), rel=1e-5)
    for row in result.history:
        assert row["loss"] == pytest.approx(row["forget_loss"] + row["retain_loss"], rel=1e-6)
    assert [row["epoch"] for row in result.history] == pytest.approx([4 / 6, 8 / 6, 2])


@pytest.mark.parametrize("attribute", ["attention_dropout", "hidden_dropout"])
def test_dropout_is_off_while_unlearning(attribute: str) -> None:
    model = zoo.tiny_model("gpt_neox", **{attribute: 0.5})
    result = expunge.unlearn(
        model, zoo.tokenizer(), zoo.corpus(), method="npo", epochs=1, batch_size=6, learning_rate=1e-3
    )
    assert result.history[0]["forget_loss"] == pytest.approx(20 * math.log(2), rel=1e-5)
    rates = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
    rates += [v for m in model.modules() for k, v in vars(m).items() if "drop" in k and isinstance(v, float)]
    assert 0.5 in rates  # and on again afterwards


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path: Path) -> None:
    model, before = zoo.tiny_model(), {}

    def spoil(model: nn.Module, step: int) -> None:
        if step == 1:
            with torch.no_grad():
                model.get_parameter("model.norm.weight")[0] = float("inf")
            before.update(weights(model))

    settings = {"method": "grad_diff", "epochs": 2, "batch_size": 4, "stop_every": 0.5}
    with pytest.raises(NonFiniteLoss, match=r"step 2 of 3 was stopped.*nan.*lower learning_rate.*the start model has"):
        expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), stop=spoil, output_dir=tmp_path / "run", **settings)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), name
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_collapse_is_called_by_its_name() -> None:
    model = zoo.tiny_model()
    expunge.finetune(
        model, zoo.tokenizer(), zoo.corpus(), splits=("forget", "retain"), epochs=30, batch_size=16, learning_rate=3e-3
    )
    with pytest.warns(UserWarning, match="collapsing rather than forgetting"):
        expunge.unlearn(
            model,
            zoo.tokenizer(),
            zoo.corpus(),
            method="grad_ascent",
            retain="nll",
            alpha=0.0,
            epochs=30,
            batch_size=6,
            learning_rate=1e-2,
        )


def test_the_batch_is_never_rounded() -> None:
    with pytest.raises(expunge.ExpungeError, match="micro_batch_size=3 does not divide the 8 rows"):
        TrainingConfig(batch_size=8, micro_batch_size=3).split(1)
    assert TrainingConfig(batch_size=8).split(3) == (3, 1)  # filled up with a row that weighs nothing
    assert TrainingConfig(batch_size=8, micro_batch_size=2).split(2) == (2, 2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"learning_rate": -1e-5}, "learning_rate must be between 0 and 1; got -1e-05"),
        ({"learning_rate": float("nan")}, "learning_rate must be between 0 and 1; got nan"),
        ({"epochs": 0}, "epochs must be above 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"schedule": "cosinus"}, "schedule must be linear, constant or cosine"),
        ({"precision": "fp8"}, "precision must be"),
    ],
)
def test_settings_check_themselves(setting: dict, message: str) -> None:
    with pytest.raises(expunge.ExpungeError, match=message):
        config = TrainingConfig()
        for name, value in setting.items():  # past the type checks that only tests have
            object.__setattr__(config, name, value)
        config.__post_init__()


def test_a_gradient_that_is_not_finite_stops_the_run_without_clipping_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny_model()
    before = weights(model)
    model.lm_head.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteLoss, match="gradient_norm is nan"):
        expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), method="npo", epochs=1, batch_size=6, max_grad_norm=0)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), name


def test_nothing_of_the_engine_is_left_on_the_model() -> None:
    model = zoo.tiny_model()
    settings = {"epochs": 1, "batch_size": 6, "precision": "bfloat16", "gradient_checkpointing": True}
    expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), method="npo", **settings)
    assert "forward" not in vars(model) and not model.is_activation_checkpointing


def test_frozen_parameters_and_adapters_are_not_overruled() -> None:
    model = zoo.tiny_model()
    model.lm_head.weight.requires_grad_(False)
    with pytest.raises(expunge.ExpungeError, match="1 of the model's parameters are frozen"):
        expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), method="npo", epochs=1, batch_size=6)
    from peft import LoraConfig

    adapted = zoo.tiny_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peft itself
        adapted.add_adapter(LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(expunge.ExpungeError, match="carries adapters without PEFT"):
        expunge.unlearn(adapted, zoo.tokenizer(), zoo.corpus(), method="npo", epochs=1, batch_size=6)


def test_a_loss_must_return_what_it_says() -> None:
    with pytest.raises(expunge.ExpungeError, match="values without counts"):
        expunge.unlearn(
            zoo.tiny_model(),
            zoo.tokenizer(),
            zoo.corpus(),
            method="zoo:bare_loss",
            retain="none",
            epochs=1,
            batch_size=6,
        )
