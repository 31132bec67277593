"""Fisher estimates and row weights: against gradients taken one example at a time, and against formulas."""

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

import zoo
from expunge.adapters import fila as fila_module
from expunge.adapters import vila as vila_module
from expunge.adapters._factor import weighted_factors
from expunge.adapters._passes import retain_sample
from expunge.adapters.fila import fila, fisher_map
from expunge.adapters.lora import lora
from expunge.adapters.vila import drawn_probes, probe_variances, vila
from expunge.core.batch import Encoded, collate
from expunge.core.checks import ExpungeError
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.models.lowrank import halves, lora_layers, taken_off
from expunge.models.matrices import as_out_in, linear_layers, target_matrices
from expunge.models.observe import observe


def rows(split: str = "forget") -> list[Encoded]:
    return encode(zoo.corpus()[split], zoo.tokenizer(), template=Template(), max_length=256)


def uneven() -> list[Encoded]:
    """Rows so unequal in length that a batch of them passes in several groups."""
    return [Encoded(row.ids * (1 + 5 * (i % 2)), row.start, row.ended, 0) for i, row in enumerate(rows())]


def token_mean_gradients(
    model: nn.Module, names: tuple[str, ...], chunk: list[Encoded]
) -> tuple[int, dict[str, torch.Tensor]]:
    """(completion tokens, gradient of the token-mean loss by matrix), by autograd."""
    model.zero_grad()
    shown = observe(model, {"rows": collate(chunk)}, {"rows": frozenset({"token_logprobs"})})["rows"]
    n = int(shown.counts.sum())
    (-shown.token_logprobs.sum() / n).backward()
    layers = linear_layers(model)
    return n, {name: as_out_in(layers[name], layers[name].weight.grad).clone() for name in names}


def plain_fisher(model: nn.Module, names: tuple[str, ...], chunks: list[list[Encoded]]) -> dict[str, torch.Tensor]:
    found = [token_mean_gradients(model, names, chunk) for chunk in chunks]
    total = sum(n for n, _ in found)
    return {name: sum(n * g[name] ** 2 for n, g in found) / total for name in names}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("fisher", ["example", "batch"])
def test_fisher_is_that_of_gradients_taken_one_by_one(architecture: str, fisher: str) -> None:
    model = zoo.tiny_model(architecture).double()
    names = target_matrices(model, "all-linear")
    found = fisher_map(model, names, rows(), fisher=fisher, batch_size=4)
    chunks = [[row] for row in rows()] if fisher == "example" else [rows()[:4], rows()[4:]]
    expected = plain_fisher(model, names, chunks)
    for name in names:
        assert found[name].shape == expected[name].shape and float(expected[name].max()) > 0
        assert_close(found[name], expected[name], rtol=1e-4, atol=1e-9 * float(expected[name].max()))


def test_example_does_not_change_with_the_batch_and_equals_batches_of_one() -> None:
    model = zoo.tiny_model()
    names = target_matrices(model, "mlp")
    whole = fisher_map(model, names, rows())
    passes: list[int] = []
    cut = fisher_map(model, names, rows(), rows_at_once=2, progress=lambda what, done, *_: passes.append(done))
    assert passes == [2, 4, 6]
    singly = fisher_map(model, names, rows(), fisher="batch", batch_size=1)
    pairs = fisher_map(model, names, rows(), fisher="batch", batch_size=2)
    for name in names:
        limit = 1e-6 * float(whole[name].max())
        assert_close(cut[name], whole[name], rtol=1e-4, atol=limit)
        assert_close(singly[name], whole[name], rtol=1e-4, atol=limit)
    assert any(not torch.allclose(pairs[name], whole[name], rtol=0.05) for name in names)


def test_rows_of_very_unequal_length_are_each_seen_once() -> None:
    model = zoo.tiny_model()
    names = target_matrices(model, "mlp")
    found = fisher_map(model.double(), names, uneven())
    expected = plain_fisher(model, names, [[row] for row in uneven()])
    for name in names:
        assert_close(found[name], expected[name], rtol=1e-4, atol=1e-9 * float(expected[name].max()))


@pytest.mark.parametrize("epsilon", [1e-5, "auto"])
def test_streamed_row_sums_are_those_of_two_maps(epsilon: float | str) -> None:
    model = zoo.tiny_model()
    names = target_matrices(model, "all-linear")
    found = fila_module.row_importance(model, names, rows(), rows("retain"), epsilon=epsilon)
    forget, retain = fisher_map(model, names, rows()), fisher_map(model, names, rows("retain"))
    above = 0
    for name in names:
        limit = 0.1 * retain[name].mean() if epsilon == "auto" else epsilon
        assert_close(found.rows[name], (forget[name] / (limit + retain[name])).sum(1), rtol=1e-5, atol=0)
        above += int((retain[name] > limit).sum())
    entries = sum(value.numel() for value in retain.values())
    assert found.report["share_above_epsilon"] == pytest.approx(above / entries)
    assert found.report["retain_median"] == pytest.approx(
        float(torch.tensor([float(value.median()) for value in retain.values()]).median())
    )


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("fisher", ["example", "batch"])
def test_probe_variances_are_those_of_probes_that_are_there(centered: bool, fisher: str) -> None:
    model = zoo.tiny_model().double()
    names = target_matrices(model, "attention")
    probes = drawn_probes(model, names, rank=3, sigma=0.05, seed=1)
    with vila_module._probed(model, {} if centered else probes, 2.0):
        found = probe_variances(model, names, uneven(), probes=probes, scaling=2.0, fisher=fisher, batch_size=4)
    # The same with probes as parameters: W + 2 B A on every matrix, less the start where it is centered.
    layers = linear_layers(model)
    factors = {n: (probes[n].a.double().requires_grad_(), probes[n].b.double().requires_grad_()) for n in names}

    def put_on(name: str):
        a, b = factors[name]
        gone = 2 * (b @ a).detach() if centered else 0

        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            return output + inputs[0] @ (2 * b @ a - gone).T

        return hook

    handles = [layers[name].register_forward_hook(put_on(name)) for name in names]
    chunks = [[row] for row in uneven()] if fisher == "example" else [uneven()[:4], uneven()[4:]]
    seen = []
    for chunk in chunks:
        shown = observe(model, {"rows": collate(chunk)}, {"rows": frozenset({"token_logprobs"})})["rows"]
        n = int(shown.counts.sum())
        leaves = [p for name in names for p in factors[name]]
        seen.append((n, torch.autograd.grad(-shown.token_logprobs.sum() / n, leaves)))
    for handle in handles:
        handle.remove()
    total = sum(n for n, _ in seen)
    for i, name in enumerate(names):
        for k, value in enumerate((found[name].a, found[name].b)):
            mean = sum(n * g[2 * i + k] for n, g in seen) / total
            square = sum(n * g[2 * i + k] ** 2 for n, g in seen) / total
            expected = (square - mean**2).clamp(min=0)
            assert_close(value, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


def test_vila_goes_on_with_products_of_variances() -> None:
    model = zoo.tiny_model()
    names = target_matrices(model, "mlp")
    probes = drawn_probes(model, names, rank=2, sigma=0.05, seed=0)
    common = {"probes": probes, "scaling": 2.0}
    found = vila_module.row_importance(model, names, rows(), rows("retain"), centered=True, epsilon=1e-5, **common)
    forget, retain = (probe_variances(model, names, rows(split), **common) for split in ("forget", "retain"))
    for name in names:
        expected = (forget[name].b @ forget[name].a) / (1e-5 + retain[name].b @ retain[name].a)
        assert_close(found.rows[name], expected.sum(1), rtol=1e-4, atol=0)


def test_the_model_is_left_as_it_was() -> None:
    model = zoo.tiny_model()
    model.lm_head.weight.requires_grad_(False)
    model.train()
    fisher_map(model, target_matrices(model, "all-linear"), rows())
    assert model.training and not model.lm_head.weight.requires_grad and model.model.norm.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_retain_rows_are_drawn_without_replacement() -> None:
    drawn = retain_sample(rows("retain"), 6, 3, forget=8)
    assert len({row.ids for row in drawn}) == 6 and drawn == retain_sample(rows("retain"), 6, 3, forget=8)
    assert drawn != retain_sample(rows("retain"), 6, 4, forget=8)
    with pytest.raises(ExpungeError, match="retain_samples must be between 1 and 10"):
        retain_sample(rows("retain"), 11, 0, forget=8)


@pytest.mark.parametrize(("forget", "drawn"), [(1, 1), (4, 1), (5, 2), (40, 10), (400, 10)])
def test_a_quarter_as_many_retain_rows_as_forget_rows_are_looked_at(forget: int, drawn: int) -> None:
    # One retain row to four forget rows, rounded up, and never more than the 10 that there are.
    assert len(retain_sample(rows("retain"), None, 0, forget=forget)) == drawn


@pytest.mark.parametrize("adapter", [fila, vila])
def test_the_default_looks_at_that_sample(adapter, tmp_path) -> None:
    assert len(rows()) == 6  # so that two retain rows are drawn
    model = zoo.tiny_model()
    names = target_matrices(model, "mlp")
    put_on = adapter(
        model, names, rows(), rows("retain"), 0, None, epsilon="auto", importance=str(tmp_path / "i.safetensors")
    )
    assert put_on.report["retain_rows"] == 2


@pytest.mark.parametrize("adapter", [fila, vila])
def test_a_kept_importance_belongs_to_its_rows_and_its_kind_of_fisher(adapter, tmp_path) -> None:
    model = zoo.tiny_model()
    names = target_matrices(model, "mlp")[:1]

    def put_on(forget: list[Encoded], retain: list[Encoded], **settings: object) -> dict:
        given = {"epsilon": "auto", "retain_samples": 2, "importance": str(tmp_path / "i.safetensors")} | settings
        made = adapter(model, names, forget, retain, 0, None, **given)
        taken_off(made.model)
        return made.report

    assert put_on(rows(), rows("retain"))["importance"] == "measured"
    assert put_on(rows(), rows("retain"))["importance"] == "stored"
    for forget, retain, settings in (
        (rows()[1:], rows("retain"), {}),
        (rows(), rows("retain")[::-1], {}),
        (rows(), rows("retain"), {"fisher": "batch"}),
    ):
        with pytest.raises(ExpungeError, match="belongs to another model, other data or other settings"):
            put_on(forget, retain, **settings)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize(("adapter", "svd"), [(fila, "exact"), (vila, "randomized")])
def test_each_layer_begins_at_the_factors_of_its_own_matrix(adapter, svd: str, architecture: str, tmp_path) -> None:
    model = zoo.tiny_model(architecture)
    names = target_matrices(model, "mlp")[:3]
    layers, file = linear_layers(model), tmp_path / "i.safetensors"
    weights = {name: as_out_in(layers[name], layers[name].weight.detach()).clone() for name in names}
    put_on = adapter(
        model, names, rows(), rows("retain"), 7, None,
        rank=2, lora_alpha=3.0, epsilon="auto", svd=svd, importance=str(file),
    )  # fmt: skip
    sums, found = load_file(file), lora_layers(put_on.model)
    for name in names:
        layer = found.pop(f"base_model.model.{name}")
        a, b, a0, b0 = halves(layer)
        assert torch.equal(a, a0) and torch.equal(b, b0) and layer.scaling == {"default": 1.5}  # 3 / 2
        exact = {"rank": 2, "scaling": 1.5, "svd": svd, "seed": 7}
        expected = weighted_factors(weights[name], sums[name].sqrt(), **exact)
        assert_close(a, expected.a, rtol=1e-6, atol=1e-7)
        assert_close(b, expected.b, rtol=1e-6, atol=1e-7)
        # What it would be with another decomposition, or another seed of it, is told apart.
        for other in ({"svd": "randomized" if svd == "exact" else "exact"}, {"seed": 8}):
            factors = weighted_factors(weights[name], sums[name].sqrt(), **(exact | other))
            assert torch.allclose(b, factors.b, rtol=1e-6, atol=1e-7) == (svd == "exact" and "seed" in other)
    assert not found


def test_plain_factors_follow_seed_and_dropout() -> None:
    def put_on(seed: int, dropout: float = 0.0) -> LoraLayer:
        model = zoo.tiny_model()
        made = lora(model, target_matrices(model, "mlp")[:1], seed, rank=2, dropout=dropout)
        (layer,) = lora_layers(made.model).values()
        return layer

    a = [halves(put_on(seed))[0] for seed in (0, 0, 1)]
    assert torch.equal(a[0], a[1]) and not torch.allclose(a[0], a[2])
    assert getattr(put_on(0, 0.3).lora_dropout["default"], "p", 0.0) == 0.3
    assert getattr(put_on(0).lora_dropout["default"], "p", 0.0) == 0.0


@pytest.mark.parametrize("fisher", ["example", "batch"])
def test_one_backward_pass_a_batch_is_enough_for_variances(fisher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls, backward = zoo.tiny_model(), [], torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda self, *a, **k: calls.append(1) or backward(self, *a, **k))
    names = target_matrices(model, "mlp")[:1]
    probes = drawn_probes(model, names, rank=2, sigma=0.05, seed=0)
    probe_variances(model, names, rows(), probes=probes, scaling=2.0, fisher=fisher, batch_size=2, rows_at_once=2)
    assert len(calls) == 3  # 6 rows, 2 at once


def test_a_layer_that_is_used_twice_is_refused() -> None:
    model = zoo.tiny_model()
    model.model.layers[1].mlp = model.model.layers[0].mlp
    with pytest.raises(ExpungeError, match=r"layers\.0\.mlp\.\w+ is used more than once in a forward pass"):
        fisher_map(model, target_matrices(model, "mlp"), rows())


def test_the_models_dropout_is_off_while_importance_is_measured() -> None:
    rates = {"resid_pdrop": 0.5, "attn_pdrop": 0.5, "embd_pdrop": 0.5}
    found = []
    for given in (rates, rates, dict.fromkeys(rates, 0.0)):
        model = zoo.tiny_model("gpt2", **given).train()
        names = target_matrices(model, "mlp")[:2]
        found.append(fisher_map(model, names, rows()))
        assert model.training
    for name in names:
        assert torch.equal(found[0][name], found[1][name]) and torch.equal(found[0][name], found[2][name])


@pytest.mark.parametrize("adapter", [fila, vila])
def test_weights_that_are_no_numbers_are_named(adapter, tmp_path) -> None:
    model, file = zoo.tiny_model(), tmp_path / "i.safetensors"
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(ExpungeError, match=r"is not finite, because model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        adapter(model, target_matrices(model, "mlp"), rows(), rows("retain"), 0, None, importance=str(file))
    assert not file.exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_retain_map_leaves_the_device_and_the_values_stay() -> None:
    names = target_matrices(zoo.tiny_model(), "all-linear")
    found = {
        device: fila_module.row_importance(zoo.tiny_model().to(device), names, rows(), rows("retain"), epsilon="auto")
        for device in ("cpu", "cuda")
    }
    for name, value in fisher_map(zoo.tiny_model().cuda(), names, rows()).items():
        assert value.device.type == "cpu"
        assert_close(found["cuda"].rows[name].cpu(), found["cpu"].rows[name], rtol=1e-3, atol=0)


@pytest.mark.parametrize("adapter", [fila, vila])
def test_importance_is_kept_and_known_by_its_content(adapter, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "importance.safetensors"

    def put_on(model: nn.Module, **settings: object) -> dict:
        names = target_matrices(model, "mlp")
        settings = {"epsilon": "auto", "importance": str(file)} | settings
        return adapter(model, names, rows(), rows("retain"), 0, None, **settings).report

    assert put_on(zoo.tiny_model())["importance"] == "measured"
    assert put_on(zoo.tiny_model())["importance"] == "stored"
    with pytest.raises(ExpungeError, match="belongs to another model"):
        put_on(zoo.tiny_model(seed=1))
    with pytest.raises(ExpungeError, match="belongs to another model"):
        put_on(zoo.tiny_model(), epsilon=1e-3)
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    assert [put_on(zoo.tiny_model(), importance=None)["importance"] for _ in range(2)] == ["measured", "stored"]
    if adapter is fila:  # its importance is the same for every rank
        assert put_on(zoo.tiny_model(), importance=None, rank=2)["importance"] == "stored"


def test_a_retain_set_without_a_say_is_called_so() -> None:
    model = zoo.tiny_model()
    names = target_matrices(model, "mlp")
    with pytest.warns(UserWarning, match=r"fila: only 0\.00% of the retain importances are above epsilon=1000000\.0"):
        fila(model, names, rows(), rows("retain"), 0, None, epsilon=1e6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": -1.0}, "epsilon must be above 0"),
        ({"epsilon": "automatic"}, "epsilon must be a number or auto"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"rank": 33}, r"rank=33 is more than .* has \(\d+ x \d+\): use 16 or less"),
        ({"lora_alpha": 0.0}, "lora_alpha must be above 0"),
        ({"fisher_batch_size": 0}, "fisher_batch_size must be at least 1"),
    ],
)
def test_settings_are_checked_before_anything_runs(settings: dict, message: str) -> None:
    model = zoo.tiny_model()
    names = target_matrices(model, "all-linear")
    with pytest.raises(ExpungeError, match=message):
        fila(model, names, rows(), rows("retain"), 0, None, **settings)
