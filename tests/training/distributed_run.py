"""One run in a process group, started by test_distributed through torch.distributed.run."""

import json
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

import expunge
import zoo

warnings.simplefilter("ignore")
how = json.loads(sys.argv[1])
output = Path(sys.argv[2])
sharded = how.pop("sharded", False)
dtype = getattr(torch, how.pop("dtype", "float32"))
torch.set_num_threads(1)
if sharded:
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    model = AutoModelForCausalLM.from_pretrained(
        how.pop("model"), dtype=dtype, distributed_config=DistributedConfig(fsdp_size=2)
    )
    assert isinstance(next(model.parameters()), DTensor), "the model is not sharded"
else:
    how.pop("model", None)
    model = zoo.tiny_model().to(dtype)
run = expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), **how)
whole = {
    name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone().contiguous()
    for name, p in run.model.named_parameters()
}
rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
save_file(whole, output / f"rank{rank}.safetensors")
(output / f"history{rank}.json").write_text(json.dumps(run.history))
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
