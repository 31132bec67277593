"""Started on two processes by test_masked_ranks.py: a masked run, whose weights each rank writes down."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

import expunge
import zoo
from expunge.core.mask import Mask
from expunge.data.template import Template
from expunge.objectives.combine import build
from expunge.training.config import TrainingConfig
from expunge.training.masked import masked
from expunge.training.rows import run_rows
from expunge.training.run import training_arguments
from expunge.training.trainer import ObjectiveTrainer

SETTINGS = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "weight_decay": 0.1, "warmup": 0}


def ddp(folder: Path, mask: Mask) -> torch.nn.Module:
    """The whole stage, replicated."""
    model = zoo.tiny_model()
    expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), method="grad_diff", mask=mask, **SETTINGS)
    return model


def fsdp2(folder: Path, mask: Mask) -> torch.nn.Module:
    """The trainer, on a model that is sharded over the processes."""
    from transformers.distributed import DistributedConfig

    model = AutoModelForCausalLM.from_pretrained(folder / "model", distributed_config=DistributedConfig(fsdp_size=2))
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    objective, config = build("grad_diff"), TrainingConfig(**SETTINGS)
    rows = run_rows(
        zoo.corpus(),
        zoo.tokenizer(),
        streams=objective.streams,
        epochs=2,
        seed=0,
        retain_per_forget=1,
        template=Template(),
        max_length=512,
    )
    arguments = training_arguments(rows, config, folder, model)
    trainer = ObjectiveTrainer(model=model, args=arguments, rows=rows, objective=objective, reference=None)
    with masked(model, mask) as trainer.selected:
        trainer.train()
    return model


def main() -> None:
    folder, engine = Path(sys.argv[1]), {"ddp": ddp, "fsdp2": fsdp2}[sys.argv[2]]
    model = engine(folder, Mask.load(folder / "mask.safetensors"))
    assert dist.get_world_size() == 2
    whole = {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().contiguous()
        for name, p in model.named_parameters()
    }
    save_file(whole, folder / f"{sys.argv[2]}-{dist.get_rank()}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
