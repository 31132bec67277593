"""A run with divided weights that is killed goes on to the same bits; its checkpoints serve any number of processes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from resume_run import left_by_a_kill
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import expunge
import zoo
from expunge.core.checkpoints import checkpoints
from expunge.masks.mask import Mask
from launched import run_ranks
from made_masks import made_mask

pytestmark = [pytest.mark.xdist_group("distributed"), pytest.mark.slow]  # one pair of processes serves all

SCRIPT = Path(__file__).with_name("resume_run.py")
STEP = 3
SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 3,
    "learning_rate": 1e-2,
    "dtype": "float64",
    "checkpoint_every": 1 / 2,
    "keep_checkpoints": 0,
}
"""Four steps, with a checkpoint after each but the last; three rows do not divide among two processes."""
CASES: dict[str, dict[str, Any]] = {
    "npo": {"method": "npo"},
    # All of a GPT-2 is one unit of FSDP2, which a forward pass between steps leaves whole.
    "gru": {"method": "grad_diff", "surgery": "gru", "architecture": "gpt2", "looks": True},
    "masked weights": {"method": "npo", "unit": "weight"},
    "masked matrices in 16 bits": {"method": "grad_diff", "unit": "matrix", "dtype": "bfloat16"},
}
ELSEWHERE = ("npo", "masked weights")
"""Cases that go on with another number of processes, too."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As each of the processes has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def alone(folder: Path, case: str, **how: Any) -> expunge.Run:
    """The run of a case in this process."""
    settings = {**SETTINGS, **CASES[case], **how}
    model = zoo.tiny_model().to(getattr(torch, settings.pop("dtype")))
    if settings.pop("unit", None):
        settings["mask"] = Mask.load(folder / "mask.safetensors")
    return expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of all cases, one after another: a folder each."""
    folder = tmp_path_factory.mktemp("resumed")
    cases = {}
    for name, how in CASES.items():
        here, settings = folder / name, {**SETTINGS, **how}
        start = zoo.tiny_model(settings.pop("architecture", "llama")).to(getattr(torch, settings["dtype"]))
        start.save_pretrained(here / "start")
        if "unit" in settings:
            mask = made_mask(start, settings.pop("unit"), "layers")
            settings["mask"] = str(mask.save(here / "mask.safetensors"))
        if name in ELSEWHERE:
            alone(here, name, output_dir=here / "one", progress=left_by_a_kill(here / "one", here / "of one", STEP))
        cases[name] = {**settings, "step": STEP}
    done = run_ranks(str(SCRIPT), str(folder), json.dumps(cases))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_the_same_number_of_processes_ends_with_the_same_bits(name: str, folder: Path) -> None:
    here = folder / name
    for rank in (0, 1):
        before, after = (load_file(here / f"{run}.{rank}.safetensors") for run in ("undisturbed", "resumed"))
        start = load_file(here / "start/model.safetensors")
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[key], weight) for key, weight in start.items())
        for key, weight in before.items():
            assert torch.equal(after[key], weight), f"{key}, rank {rank}"
        histories = [json.loads((here / f"{run}.{rank}.json").read_text()) for run in ("undisturbed", "resumed")]
        assert histories[0] == histories[1] and len(histories[0]) == 4
        # What a mask selects is held whole by each process.
        kind = "Tensor" if "unit" in CASES[name] else "DTensor"
        assert set(json.loads((here / f"moments.{rank}.json").read_text())) <= {kind, "Parameter"}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_one_process_goes_on_with_the_same_pairs(name: str, folder: Path, tmp_path: Path) -> None:
    """From a checkpoint of divided weights with whole ones, and the other way round."""
    here = folder / name
    expected = load_file(here / "one/model.safetensors")
    with_one = alone(here, name, output_dir=here / "for one", resume=True)
    for found in (with_one.model.state_dict(), load_file(here / "of one.0.safetensors")):
        for key, weight in expected.items():
            torch.testing.assert_close(found[key], weight, rtol=1e-9, atol=1e-12, msg=key)
    history = [row["loss"] for row in json.loads((here / "of one.1.json").read_text())]
    assert history == pytest.approx([row["loss"] for row in with_one.history], rel=1e-9)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_checkpoint_is_that_of_one_process(name: str, folder: Path) -> None:
    """It loads alone as a model, and the optimizer's moments are whole, in no file of pickles."""
    *_, divided = checkpoints(folder / name / "undisturbed")
    *_, one = checkpoints(folder / name / "one")
    assert divided.name == one.name == "checkpoint-3"
    assert {p.name for p in one.iterdir()} - {"optimizer.pt", "rng_state.pth"} == {
        p.name for p in divided.iterdir()
    } - {"optimizer.safetensors", "rng_state_0.pth", "rng_state_1.pth"}
    model = AutoModelForCausalLM.from_pretrained(divided)
    for key, weight in AutoModelForCausalLM.from_pretrained(one).state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], weight, rtol=1e-9, atol=1e-12, msg=key)
    stock = torch.load(one / "optimizer.pt", weights_only=True)["state"]
    ours = load_file(divided / "optimizer.safetensors")
    assert ours.keys() == {f"state.{number}.{key}" for number, values in stock.items() for key in values}
    for number, values in stock.items():
        for key, value in values.items():
            torch.testing.assert_close(ours[f"state.{number}.{key}"], value, rtol=1e-6, atol=1e-12)


def test_masters_of_what_is_stored_in_16_bits_are_kept(folder: Path) -> None:
    *_, latest = checkpoints(folder / "masked matrices in 16 bits" / "undisturbed")
    masters = {key: value for key, value in load_file(latest / "optimizer.safetensors").items() if "masters" in key}
    weights = load_file(latest / "model.safetensors")
    assert masters
    for key, value in masters.items():
        assert value.dtype == torch.float32
        assert torch.equal(value.bfloat16(), weights[key.removeprefix("masters.")])
        assert not torch.equal(value, weights[key.removeprefix("masters.")].float())


def test_a_signal_to_one_process_stops_both_at_the_same_step(folder: Path) -> None:
    said = [(folder / "npo" / f"interrupted.{rank}.txt").read_text() for rank in (0, 1)]
    assert said[0] == said[1] and said[0].startswith("stopped at step 2 of 4; the checkpoint ")
    (latest,) = checkpoints(folder / "npo" / "interrupted")
    assert latest.name == "checkpoint-2"
    *_, other, _ = checkpoints(folder / "npo" / "undisturbed")
    assert other.name == latest.name
    for name in ("model.safetensors", "optimizer.safetensors"):
        before, after = load_file(other / name), load_file(latest / name)
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_a_run_that_failed_leaves_its_last_good_weights(folder: Path) -> None:
    said = [(folder / "npo" / f"failed.{rank}.txt").read_text() for rank in (0, 1)]
    (latest,) = checkpoints(folder / "npo" / "failed")
    assert said == [f"a measure has no value. The last good weights are in {latest}."] * 2
    AutoModelForCausalLM.from_pretrained(latest)
