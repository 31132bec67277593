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
