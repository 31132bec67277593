"""The stage: names, defaults, what is said and what is refused."""

import pytest
import torch

import expunge
import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus
from expunge.localize.attributions.wagle import DOMINATED
from expunge.masks.scores import Scores
from expunge.models.fingerprint import model_fingerprint


def localized(model=None, corpus=None, **settings):
    return expunge.localize(model or zoo.tiny_model(), zoo.tokenizer(), corpus or zoo.corpus(), **settings)


def strange(weights, group):
    """Somebody else's attribution: asks for nothing but weights."""
    return weights.sum(1)


def greedy(logits):
    """Asks for what no attribution is shown."""


@pytest.mark.parametrize("name", ["wagle", "memflex", "random"])
def test_the_papers_names_are_value_vectors(name):
    gamma = {"gamma": 1e3} if name == "wagle" else {}
    one, other = (
        localized(attribution=f"{name}_down", **gamma),
        localized(attribution=name, unit="value_vector", **gamma),
    )
    assert all(torch.equal(one.values[g], other.values[g]) for g in one.values)
    with pytest.raises(ExpungeError, match=f"{name}_down scores value_vectors; leave out unit=weight"):
        localized(attribution=f"{name}_down", unit="weight")


def test_the_default_unit_is_the_value_vector_where_there_is_one():
    assert localized(attribution="gradient").layout.unit == "value_vector"
    wanda = localized(attribution="wanda")
    assert wanda.layout.unit == "weight" and wanda.scope == "per_row"


def test_wagle_says_how_far_the_retain_term_dominates():
    scores = localized(attribution="wagle")
    (note,) = scores.manifest.results["notes"]
    assert scores.manifest.results["shares"] == {DOMINATED: 1.0} and note.startswith("100.0 % of units whose retain")
    quiet = localized(attribution="wagle", gamma=1e6)
    assert quiet.manifest.results["shares"] == {DOMINATED: 0.0} and not quiet.manifest.results["notes"]


def test_wagle_of_sums_ranks_as_wagle_of_means_with_gamma_over_the_examples():
    means = localized(zoo.tiny_model().double(), attribution="wagle", gamma=1e-3 / 6)
    sums = localized(zoo.tiny_model().double(), attribution="wagle", gamma=1e-3, gradient="sum")
    assert sums.select(ratio=0.3) == means.select(ratio=0.3)
    for group, values in means.values.items():
        torch.testing.assert_close(sums.values[group], 6 * values, rtol=1e-3, atol=1e-5 * float(values.max()))


def test_as_many_retain_examples_as_there_are_forget_examples():
    found = localized(attribution="memflex")
    assert found.manifest.results["examples"] == {"forget": 6, "retain": 6}
    assert localized(attribution="memflex", retain_examples=10).manifest.results["examples"]["retain"] == 10
    with pytest.raises(ExpungeError, match="retain_examples must be between 1 and 10, what there is; got 11"):
        localized(attribution="memflex", retain_examples=11)


def test_label_noise_and_copies():
    noisy = localized(attribution="memflex", label_noise=0.5, copies=3)
    assert noisy.manifest.results["examples"] == {"forget": 18, "retain": 18}
    assert noisy.manifest.inputs["forget"] != localized(attribution="memflex").manifest.inputs["forget"]


def test_wanda_looks_at_so_many_examples():
    assert localized(attribution="wanda", examples=4).manifest.results["examples"] == {"forget": 4}
    assert localized(attribution="wanda").manifest.results["examples"] == {"forget": 6}


def test_wanda_goes_with_linear_layers():
    with pytest.raises(ExpungeError, match=r"wanda reads the inputs .* model\.embed_tokens\.weight is none's"):
        localized(attribution="wanda", modules="all")


def test_some_look_at_no_data():
    for name in ("random", "magnitude"):
        assert expunge.localize(zoo.tiny_model(), zoo.tokenizer(), attribution=name).manifest.inputs.keys() == {
            "model", "tokenizer",
        }  # fmt: skip
    with pytest.raises(ExpungeError, match="wagle looks at the forget and the retain set, and no corpus came"):
        expunge.localize(zoo.tiny_model(), zoo.tokenizer())
    only = Corpus({"forget": zoo.corpus()["forget"]}, "small")
    with pytest.raises(ExpungeError, match=r"memflex looks at .* and the corpus 'small' holds only forget"):
        localized(corpus=only, attribution="memflex")
    assert localized(corpus=only, attribution="gradient")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attribution": "wagl"}, "no attribution is called 'wagl'. Did you mean 'wagle'"),
        (
            {"attribution": "activation", "unit": "weight"},
            "activation is not defined for unit=weight. It takes: va",
        ),
        ({"attribution": "wanda", "unit": "neuron"}, "wanda is not defined for unit=neuron. It takes: weight"),
        ({"attribution": "wagle", "mu": 0.9}, "no hyperparameter of wagle is called 'mu'"),
        ({"attribution": "gradient", "forget_objective": "npoo"}, "no unlearning method is called 'npoo'"),
        (
            {"attribution": "activation", "forget_objective": "idk"},
            "activation takes no gradient of a forget objective, so forget_objective=idk would change nothing",
        ),
        ({"attribution": "gradient", "gradient": "max"}, "gradient must be 'mean' or 'sum'"),
        ({"attribution": "fisher", "gradient": "sum"}, "takes no gradient of a whole set"),
        ({"attribution": "gradient", "retain_examples": 3}, "uses no retain examples"),
        ({"attribution": "activation", "positions": "some"}, "positions must be 'predicting' or 'all'"),
        ({"attribution": "memflex", "label_noise": 2.0}, "label_noise must be between 0 and 1"),
        (
            {"attribution": f"{__name__}:greedy"},
            "its positional parameters are logits; it must have at least 1, named",
        ),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(ExpungeError, match=message):
        localized(**settings)


def test_attributions_of_others():
    found = localized(attribution=f"{__name__}:strange")
    weight = dict(zoo.tiny_model().named_parameters())["model.layers.0.mlp.down_proj.weight"]
    torch.testing.assert_close(found.values["model.layers.0.mlp.down_proj.weight"], weight.detach().sum(0))


def test_a_loss_that_overflows_is_an_error():
    model = zoo.tiny_model()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1e30)
        model.model.layers[0].mlp.gate_proj.weight.mul_(1e30)
    with pytest.raises(ExpungeError, match=r"score 0 of model\.layers\.0\.mlp\.down_proj\.weight is nan"):
        localized(model, attribution="gradient")


def test_a_broken_model_is_not_localized():
    model = zoo.tiny_model()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ExpungeError, match=r"the model is broken: model\.layers\.0\.mlp\.up_proj\.weight holds"):
        localized(model, attribution="gradient")


def test_the_manifest_says_what_was_done(tmp_path):
    model = zoo.tiny_model()
    scores = localized(model, attribution="memflex", mu=0.5, seed=3)
    made = scores.manifest
    assert made.stage == "localize" and made.seed == 3 and made.inputs["model"] == model_fingerprint(model)
    assert made.arguments["hyperparameters"] == {"mu": 0.5, "variant": "rank", "label_noise": 0.0, "copies": 1}
    assert made.results["units"] == 3 * 48 and made.results["weights"] == 3 * 48 * 32
    again = Scores.load(scores.save(tmp_path / "scores.safetensors"))
    assert again.manifest == made and again.select(ratio=0.2) == scores.select(ratio=0.2)


def test_memflex_with_a_threshold_picks_what_the_reference_picks():
    scores = localized(attribution="memflex", unit="matrix", variant="threshold")
    picked = scores.select(threshold=6e-4)
    plain = localized(attribution="gradient", unit="matrix")
    ranked = localized(attribution="memflex", unit="matrix")
    for name in picked.layout.parts:
        expected = float(ranked.values[name]) > 0 and float(plain.values[name]) > 6e-4
        assert bool(picked.selected(name)[0]) == expected


def test_progress_is_told():
    told = []
    localized(attribution="memflex", progress=lambda *what: told.append(what))
    last = {what: (done, total) for what, done, total, _ in told}
    assert last["scores"] == (3, 3) and set(last) <= {"scores", "forget gradients", "retain gradients"}
