"""Patches: forth and back bit for bit, on their own base only."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import zoo
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.models.fingerprint import model_fingerprint
from expunge.models.patch import Patch, make_patch


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    wide = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return {name: t.detach().clone().view(wide[t.element_size()]) for name, t in model.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Two(nn.Module):
    """Two tensors, of one type."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12, dtype=dtype).view(3, 4))
        self.bias = nn.Parameter(torch.zeros(3, dtype=dtype))


def test_flips_by_hand() -> None:
    base, result = Two(), Two()
    with torch.no_grad():
        result.weight[:, 1] = torch.tensor([2.0, 6.0, -9.0])
    patch = make_patch(base, result)
    # Column 1 was 1, 5, 9. Bits of 1 and 2: 0x3F800000 and 0x40000000; of 5 and 6: 0x40A00000 and 0x40C00000; 9 and -9
    # differ in the sign.
    assert list(patch.changes) == ["weight"] and patch.weights == 3
    change = patch.changes["weight"]
    assert (change.part.cut, change.part.dim) == ("slices", 1)
    assert change.bits.tolist() == [0b0010]
    assert change.flips.tolist() == [[0x7F800000], [0x00600000], [-(2**31)]]


def test_few_weights_are_kept_one_by_one() -> None:
    base, result = nn.Linear(64, 64), nn.Linear(64, 64)
    result.load_state_dict(base.state_dict())
    with torch.no_grad():
        result.weight[3, 5] += 1
        result.weight[40, 60] += 1
        result.weight[63, 0] += 1
    change = make_patch(base, result).changes["weight"]
    assert change.part.cut == "weights" and change.weights == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@given(seed=st.integers(0, 1000), share=st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_forth_and_back_whatever_the_bits(dtype: torch.dtype, seed: int, share: float) -> None:
    """Any bits, not-a-number and infinity included."""
    integers: Any = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    generator = torch.Generator().manual_seed(seed)
    base, result = Two(dtype), Two(dtype)
    with torch.no_grad():
        for a, b in zip(base.parameters(), result.parameters(), strict=True):
            limit = 2 ** (8 * dtype.itemsize - 2)
            for p in (a, b):
                p.view(integers).random_(-limit, limit, generator=generator)
            b.view(integers)[torch.rand(b.shape, generator=generator) >= share] = 0
            a.view(integers)[b.view(integers) == 0] = 0
    before, after = bits(base), bits(result)
    patch = make_patch(base, result)
    patch.apply(base)
    assert equal(bits(base), after)
    patch.revert(base)
    assert equal(bits(base), before)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_patch_goes_through_its_file(tmp_path: Path, architecture: str) -> None:
    base, result = (zoo.tiny_model(architecture, tie_word_embeddings=True) for _ in range(2))
    before = bits(base)
    with torch.no_grad():
        result.get_input_embeddings().weight[7] *= 2
        next(p for n, p in result.named_parameters() if "2" in n and p.dim() == 2).mul_(-1)
    manifest = Manifest(stage="unlearn", arguments={"method": "npo"})
    path = make_patch(base, result, manifest=manifest).save(tmp_path / "sub/patch.safetensors")
    patch = Patch.load(path)
    assert len(patch.changes) == 2 and patch.manifest == manifest  # the tied tensor once
    assert (patch.base, patch.result) == (model_fingerprint(base), model_fingerprint(result))
    patch.apply(base)
    assert equal(bits(base), bits(result))
    patch.revert(base)
    assert equal(bits(base), before)


def test_another_model_is_refused_and_stays_as_it_is() -> None:
    base, result, other = zoo.tiny_model(), zoo.tiny_model(seed=1), zoo.tiny_model(seed=2)
    patch, before = make_patch(base, result), bits(other)
    with pytest.raises(ExpungeError, match=r"cannot apply the patch.*neither the patch's base nor its result"):
        patch.apply(other)
    with pytest.raises(ExpungeError, match=r"cannot apply the patch.*It is the patch's result"):
        patch.apply(result)
    with pytest.raises(ExpungeError, match=r"cannot revert the patch.*It is the patch's base"):
        patch.revert(base)
    assert equal(bits(other), before)


def test_a_damaged_patch_is_noticed_and_taken_back() -> None:
    base, result = Two(), Two()
    with torch.no_grad():
        result.weight[0, 0] = 5
    patch, before = make_patch(base, result), bits(base)
    patch.changes["weight"].flips.view(-1)[0] ^= 4
    with pytest.raises(ExpungeError, match="the patch is damaged"):
        patch.apply(base)
    assert equal(bits(base), before)


def test_a_patch_that_lacks_a_piece_changes_nothing() -> None:
    base = zoo.tiny_model()
    patch, before = make_patch(base, zoo.tiny_model(seed=1)), bits(base)
    last = list(patch.changes)[-1]
    cut = replace(patch.changes[last], flips=patch.changes[last].flips[:-1])
    damaged = replace(patch, changes={**patch.changes, last: cut})
    with pytest.raises(ExpungeError, match=f"its part for '{last}' is not whole. The model is as it was"):
        damaged.apply(base)
    assert equal(bits(base), before)


def test_models_of_two_kinds_have_no_patch() -> None:
    with pytest.raises(ExpungeError, match=r"'model.layers.0.mlp.gate_proj.weight' is \(48, 32\) .* and \(64, 32\)"):
        make_patch(zoo.tiny_model(), zoo.tiny_model(intermediate_size=64))
    with pytest.raises(ExpungeError, match=r"float32 in the base and .*bfloat16 in the result"):
        make_patch(zoo.tiny_model(), zoo.tiny_model().bfloat16())


def test_files_that_are_no_patch(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(ExpungeError, match="no patch at"):
        Patch.load(tmp_path / "none.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ExpungeError, match="holds no patch: its format is None"):
        Patch.load(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ExpungeError, match="is not a safetensors file"):
        Patch.load(tmp_path / "text.safetensors")
