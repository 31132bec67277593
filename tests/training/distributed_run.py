"""Runs in a process group, one after another, started by test_distributed through torch.distributed.run."""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

import expunge
import zoo


def run(folder: Path, *, dtype: str = "float32", sharded: bool = False, **how: Any) -> None:
    """Unlearn; leave this rank's weights, whole, and history in the folder, which may hold the start model."""
    os.environ["EXPUNGE_CACHE"] = str(folder / "cache")  # reference values are computed, not read
    if sharded:
        model = AutoModelForCausalLM.from_pretrained(
            folder / "start", dtype=getattr(torch, dtype), distributed_config=DistributedConfig(fsdp_size=2)
        )
        assert isinstance(next(model.parameters()), DTensor), "the model is not sharded"
    else:
        model = zoo.tiny_model().to(getattr(torch, dtype))
    done = expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), **how)
    whole = {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone().contiguous()
        for name, p in done.model.named_parameters()
    }
    rank = torch.distributed.get_rank()
    save_file(whole, folder / f"rank{rank}.safetensors")
    (folder / f"history{rank}.json").write_text(json.dumps(done.history))


warnings.simplefilter("ignore")
torch.set_num_threads(1)
for name, how in json.loads(sys.argv[2]).items():
    run(Path(sys.argv[1]) / name, **how)
torch.distributed.destroy_process_group()
