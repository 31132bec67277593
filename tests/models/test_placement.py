"""Models that accelerate spreads or offloads are read, evaluated and localized like whole ones."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload, init_empty_weights
from transformers import PreTrainedModel

import expunge
import zoo
from expunge.models.fingerprint import model_fingerprint
from expunge.models.finite import check_finite
from expunge.models.load import load_model
from expunge.models.placement import input_device, is_spread, kept_weights, refuse_spread


def tied(**changes: object) -> PreTrainedModel:
    return zoo.tiny_model("llama", seed=1, max_position_embeddings=512, tie_word_embeddings=True, **changes)


@pytest.fixture(params=["memory", "disk"])
def offloaded(request: pytest.FixtureRequest, tmp_path: Path) -> PreTrainedModel:
    """A model with no weight in place but for the time that it is used."""
    if request.param == "memory":
        model = cpu_offload(tied(), execution_device=torch.device("cpu"))
    else:
        model = disk_offload(tied(), tmp_path / "offloaded", execution_device=torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    return model.eval()


def test_the_weights_of_an_offloaded_model_are_those_of_the_whole_one(offloaded: PreTrainedModel) -> None:
    whole = tied()
    assert is_spread(offloaded) and not is_spread(whole)
    assert input_device(offloaded) == input_device(whole) == torch.device("cpu")
    weights = dict(kept_weights(offloaded))
    assert all(torch.equal(weights[name], parameter) for name, parameter in whole.named_parameters())
    assert model_fingerprint(offloaded) == model_fingerprint(whole)


def test_a_broken_weight_is_found_where_it_is_kept() -> None:
    model = tied()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(expunge.ExpungeError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds numbers"):
        check_finite(cpu_offload(model, execution_device=torch.device("cpu")))


@pytest.mark.slow
def test_an_offloaded_model_is_evaluated_like_a_whole_one(offloaded: PreTrainedModel) -> None:
    found, expected = (expunge.evaluate(model, zoo.tokenizer(), zoo.corpus()) for model in (offloaded, tied()))
    assert found.numbers() == expected.numbers()
    assert found.samples == expected.samples


@pytest.mark.parametrize(
    "how",
    [
        {"attribution": "wagle", "unit": "weight"},
        {"attribution": "fisher", "unit": "weight", "forget_objective": "dpo"},  # two rows an example, in two passes
        {"attribution": "activation"},
        {"attribution": "wanda"},
    ],
    ids=lambda how: " ".join(map(str, how.values())),
)
def test_an_offloaded_model_is_localized_like_a_whole_one(
    how: dict[str, str], offloaded: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = zoo.corpus()
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "one"))
    found = expunge.localize(offloaded, zoo.tokenizer(), corpus, **how)
    assert all(parameter.device.type == "meta" for parameter in offloaded.parameters())
    with pytest.raises(expunge.ExpungeError, match="is shared by two layers"):
        expunge.localize(offloaded, zoo.tokenizer(), corpus, attribution="magnitude", modules="all", unit="weight")
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "other"))
    expected = expunge.localize(tied(), zoo.tokenizer(), corpus, **how)
    assert found.values.keys() == expected.values.keys()
    for group, values in expected.values.items():
        torch.testing.assert_close(found.values[group], values, rtol=1e-4, atol=1e-6 * float(values.abs().max()))
    assert expected.select().overlap(found.select()).iou > 0.99


def test_what_changes_weights_in_place_refuses_an_offloaded_model(offloaded: PreTrainedModel) -> None:
    for act in (
        lambda: expunge.unlearn(offloaded, zoo.tokenizer(), zoo.corpus(), method="npo", learning_rate=1e-3, epochs=1),
        lambda: expunge.attack(offloaded, zoo.tokenizer(), zoo.corpus(), attacks=["prune"]),
    ):
        with pytest.raises(expunge.ExpungeError, match="spread over devices or offloaded"):
            act()
    refuse_spread(tied(), "nothing")


def test_a_model_without_weights_stays_without() -> None:
    with init_empty_weights():
        model = tied()
    assert all(weight.device.type == "meta" for _, weight in kept_weights(model))


def test_device_auto_and_sharding_are_refused_where_they_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tied().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"]
    assert model_fingerprint(load_model(tmp_path, device="auto")) == model_fingerprint(tied())
    with pytest.raises(expunge.ExpungeError, match="divides the weights among several processes, and this is one"):
        load_model(tmp_path, sharded=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(expunge.ExpungeError, match="device=auto with 2 processes"):
        load_model(tmp_path, device="auto")
    with pytest.raises(expunge.ExpungeError, match="device=cpu does not go with sharded=true"):
        load_model(tmp_path, device="cpu", sharded=True)
