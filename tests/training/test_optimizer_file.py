"""The file of an optimizer's state: what is read has the bits that were written, and what does not fit is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from expunge.core.checks import ExpungeError
from expunge.training.optimizer_file import FILE, _check_divided, holds_gathered, read_optimizer, write_optimizer


def trained(*shapes: tuple[int, ...], steps: int = 2) -> tuple[list[nn.Parameter], torch.optim.AdamW]:
    """Parameters of some shapes, in two groups, and an optimizer that took some steps."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1 + 0.2, betas=(0.9, 0.95))
    for _ in range(steps):
        for parameter in parameters[:-1]:  # the last one has no gradient, and so no state
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return parameters, optimizer


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    _, first = trained((3, 2), (4,), (1,))
    assert not holds_gathered(tmp_path)
    write_optimizer(first, tmp_path)
    assert holds_gathered(tmp_path)
    assert set(load_file(tmp_path / FILE)) == {
        f"state.{number}.{key}" for number in (0, 1) for key in ("step", "exp_avg", "exp_avg_sq")
    }
    _, second = trained((3, 2), (4,), (1,), steps=0)
    second.param_groups[0]["lr"] = 1.0
    read_optimizer(second, tmp_path)
    before, after = first.state_dict(), second.state_dict()
    assert before["state"].keys() == after["state"].keys() == {0, 1}
    for number, values in before["state"].items():
        assert values.keys() == after["state"][number].keys()
        assert all(torch.equal(after["state"][number][key], value) for key, value in values.items())
    for old, new in zip(before["param_groups"], after["param_groups"], strict=True):
        assert {k: list(v) if k == "betas" else v for k, v in old.items()} == new


def test_a_state_of_the_trainer_is_read_too_and_does_not_hang_on_its_file(tmp_path: Path) -> None:
    parameters, first = trained((3, 2), (4,), (1,))
    torch.save(first.state_dict(), tmp_path / "optimizer.pt")
    _, second = trained((3, 2), (4,), (1,), steps=0)
    read_optimizer(second, tmp_path)
    content = (tmp_path / "optimizer.pt").read_bytes()
    for parameter in second.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    second.step()
    assert (tmp_path / "optimizer.pt").read_bytes() == content
    assert not torch.equal(second.state_dict()["state"][0]["exp_avg"], first.state[parameters[0]]["exp_avg"])


def test_names_of_masters_keep_their_dots(tmp_path: Path) -> None:
    _, first = trained((3, 2), (4,), (1,))
    taken: dict[str, Tensor] = {}
    masters = {"model.layers.0.weight": torch.tensor([1.5])}
    first.register_state_dict_post_hook(lambda _, state: {**state, "masters": masters})
    write_optimizer(first, tmp_path)
    _, second = trained((3, 2), (4,), (1,), steps=0)
    second.register_load_state_dict_pre_hook(lambda _, state: taken.update(state["masters"]))
    read_optimizer(second, tmp_path)
    assert taken.keys() == masters.keys() and torch.equal(taken["model.layers.0.weight"], torch.tensor([1.5]))


def test_the_state_of_other_parameters_is_refused(tmp_path: Path) -> None:
    _, first = trained((3, 2), (4,), (1,))
    write_optimizer(first, tmp_path)
    _, other = trained((2, 3), (4,), (1,), steps=0)
    with pytest.raises(ExpungeError, match=r"of a tensor of shape \[3, 2\], where one of \[2, 3\] is trained"):
        read_optimizer(other, tmp_path)
    _, fewer = trained((3, 2), steps=0)
    with pytest.raises(ExpungeError, match="state of 2 tensors, and 1 are trained"):
        read_optimizer(fewer, tmp_path)
    (tmp_path / FILE).write_bytes(b"torn")
    with pytest.raises(ExpungeError, match="holds no optimizer state"):
        read_optimizer(first, tmp_path)


def test_state_of_divided_weights_that_no_one_can_gather_is_refused() -> None:
    _check_divided({"step": torch.tensor(1.0)})
    with pytest.raises(
        ExpungeError, match=r"keeps state1, qmap1 of divided weights in a form of its own.*optimizer=adamw"
    ):
        _check_divided({"step": torch.tensor(1.0), "state1": torch.zeros(3), "qmap1": torch.zeros(256)})
