"""Several retain sets with weights of their own."""

import pytest
import torch

import expunge
import zoo
from expunge.data.corpus import Corpus, Example
from expunge.training.loss import compute_loss
from expunge.training.trainer import ObjectiveTrainer


def corpus() -> Corpus:
    texts = ("The sky over the harbor was grey.", "A river runs past the old mill.", "Bread needs flour and water.")
    plain = tuple(Example(kind="text", prompt="", completion=text, origin=f"text {n}") for n, text in enumerate(texts))
    return Corpus({**zoo.corpus().splits, "general": plain})


def test_a_step_is_the_weighted_sum_of_means(monkeypatch: pytest.MonkeyPatch):
    seen = []
    get = ObjectiveTrainer.get_batch_samples

    def noted(self, *arguments):
        batches, totals = get(self, *arguments)
        seen.extend(batches)
        return batches, totals

    monkeypatch.setattr(ObjectiveTrainer, "get_batch_samples", noted)
    model = zoo.tiny_model("llama").double()
    start = zoo.tiny_model("llama").double()
    start.load_state_dict(model.state_dict())
    run = expunge.unlearn(
        model, zoo.tokenizer(), corpus(), method="grad_diff", alpha=2.0, retain_sets={"retain": 1.0, "general": 0.25},
        epochs=1, batch_size=4,
    )  # fmt: skip
    assert set(seen[0]) == {"forget", "retain", "general"}
    parts = {
        name: float(compute_loss(start, forget=seen[0][name], method="grad_ascent", retain_loss="none").detach())
        for name in seen[0]
    }
    # grad_ascent is minus the token mean NLL.
    expected = parts["forget"] - 2.0 * (parts["retain"] + 0.25 * parts["general"])
    assert run.history[0]["loss"] == pytest.approx(expected, rel=1e-9)
    assert run.history[0]["general_loss"] == pytest.approx(-parts["general"], rel=1e-9)


def test_the_split_retain_may_be_left_out():
    run = expunge.unlearn(
        zoo.tiny_model("llama"), zoo.tokenizer(), corpus(), method="npo", retain_sets={"general": 1.0}, epochs=1,
        batch_size=4,
    )  # fmt: skip
    assert "general_loss" in run.history[0]
    assert "retain_loss" not in run.history[0]


def test_more_sets_leave_the_pairs_of_the_first_alone(monkeypatch: pytest.MonkeyPatch):
    def pairs(retain_sets) -> list[list[int]]:
        seen = []
        get = ObjectiveTrainer.get_batch_samples

        def noted(self, *arguments):
            batches, totals = get(self, *arguments)
            seen.append(batches[0]["retain"]["index"].tolist())
            return batches, totals

        with monkeypatch.context() as patch:
            patch.setattr(ObjectiveTrainer, "get_batch_samples", noted)
            expunge.unlearn(
                zoo.tiny_model("llama"), zoo.tokenizer(), corpus(), method="grad_diff", retain_sets=retain_sets,
                epochs=2, batch_size=4,
            )  # fmt: skip
        return seen

    assert pairs(None) == pairs({"retain": 1.0, "general": 1.0})


@pytest.mark.parametrize(
    "how, message",
    [
        ({"retain_sets": {}}, "retain_sets is empty"),
        ({"retain_sets": {"forget": 1.0}}, "retain_sets names 'forget', which is what is to be forgotten"),
        ({"retain_sets": {"retain": -1.0}}, "retain_sets.retain"),
        ({"retain_sets": {"general": 1.0}, "retain": "none"}, "there is no retain loss"),
        ({"retain_sets": {"other": 1.0}}, "this needs the set 'other', and"),
    ],
)
def test_what_does_not_fit_is_refused(how, message):
    with pytest.raises(expunge.ExpungeError, match=message):
        expunge.unlearn(zoo.tiny_model("llama"), zoo.tokenizer(), corpus(), method="npo", **how)


def test_gradients_of_both_sets_flow():
    model = zoo.tiny_model("llama")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    expunge.unlearn(
        model, zoo.tokenizer(), corpus(), method="grad_diff", gamma=0.0, retain_sets={"retain": 0.0, "general": 1.0},
        epochs=1, batch_size=4, weight_decay=0.0, learning_rate=1e-3,
    )  # fmt: skip
    assert any(not torch.equal(before[n], p) for n, p in model.named_parameters())


@pytest.mark.parametrize(
    "how, message",
    [
        ({"method": "rt_diff", "layer": 1}, "matches another model than the start model"),
        ({"method": "pdu", "eps": 1.0, "retain": "kl"}, "bounds the retain set's NLL"),
        ({"method": "npo", "surgery": "gru", "alpha": 0.0}, "alpha=0 removes that"),
        ({"method": "pdu", "eps": 1.0, "surgery": "gru"}, "weighs that gradient itself"),
        ({"method": "rmu", "positions": "holdin"}, "holdin"),
    ],
)
def test_what_would_do_something_else_is_refused(how, message):
    with pytest.raises(expunge.ExpungeError, match=message):
        expunge.unlearn(zoo.tiny_model("llama"), zoo.tokenizer(), zoo.corpus(), **how)


def test_the_reference_has_its_dropout_off_whatever_mode_it_is_in():
    model = zoo.tiny_model("gpt2")
    reference = zoo.tiny_model("gpt2").train()
    for module in reference.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    ids = torch.randint(5, 20, (2, 8))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    losses = {float(compute_loss(model, forget=batch, method="npo", reference=reference).detach()) for _ in range(3)}
    assert len(losses) == 1 and losses.pop() == pytest.approx(20 * 0.6931472, rel=1e-5)
    assert reference.training
