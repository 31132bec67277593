"""Masked training on two processes: the same weights on both, as from one process, and nothing outside changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from masked_ranks import SETTINGS
from safetensors.torch import load_file

import expunge
import zoo
from made_masks import made_mask

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("engine", "unit"),
    [
        ("ddp", "weight"),
        ("fsdp2", "neuron"),
        pytest.param("ddp", "neuron", marks=pytest.mark.slow),
        pytest.param("fsdp2", "weight", marks=pytest.mark.slow),
    ],
)
def test_two_processes_end_where_one_does(tmp_path: Path, engine: str, unit: str) -> None:
    start = zoo.tiny_model()
    start.save_pretrained(tmp_path / "model")
    mask = made_mask(start, unit, "layers")  # type: ignore[arg-type]
    mask.save(tmp_path / "mask.safetensors")
    paths = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(HERE / "masked_ranks.py"), str(tmp_path), engine],
        env={**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    one = zoo.tiny_model()
    expunge.unlearn(one, zoo.tokenizer(), zoo.corpus(), method="grad_diff", mask=mask, **SETTINGS)
    ranks = [load_file(tmp_path / f"{engine}-{rank}.safetensors") for rank in (0, 1)]
    before = dict(start.named_parameters())
    for name, p in one.named_parameters():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        inside = mask.dense(name) if name in mask.layout.parts else torch.zeros_like(p, dtype=torch.bool)
        assert torch.equal(ranks[0][name][~inside], before[name][~inside]), name
        # Gradients are added up in another order; AdamW turns tiny ones into whole steps, so single weights may differ.
        apart = (ranks[0][name] - p.detach()).abs()
        assert apart.mean() < 1e-5 and apart.max() < 2e-2, name
        assert not inside.any() or (p.detach() - before[name]).abs()[inside].mean() > 1e-3, name
