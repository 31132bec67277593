"""How fast this machine computes, for estimates of time before anything is loaded."""

import time

import torch
from transformers import PreTrainedModel

SIDE = 1024
"""Side of the matrices that are multiplied."""


def speed(dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations a second of a matrix product here, on the device that a run would take."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.rand(SIDE, SIDE, device=device).to(dtype)
    times = []
    for _ in range(4):  # the first one also starts threads and libraries
        began = time.perf_counter()
        (matrix @ matrix).sum().item()
        times.append(time.perf_counter() - began)
    return float(2 * SIDE**3 / min(times))


def least_seconds(model: PreTrainedModel, tokens: float, *, whole: bool = True, bf16: bool = False) -> float:
    """What the products of matrices of training take here; everything else comes on top.

    For each weight and token these are two operations forward, two for the gradient of what goes in, and two for that
    of the weight.

    Args:
        model: of which only the shapes are read; a skeleton is enough.
        tokens: that the model is trained on.
        whole: are all weights trained? Through an adapter or a mask, the gradients of weights hardly count.
        bf16: is it computed in bfloat16?
    """
    head, looked_up = model.get_output_embeddings(), model.get_input_embeddings()
    weights: int = sum(parameter.numel() for parameter in model.parameters())
    if head is None or head.weight is not looked_up.weight:  # a table of its own, which takes no product
        weights -= looked_up.weight.numel()
    return (6 if whole else 4) * tokens * weights / speed(torch.bfloat16 if bf16 else torch.float32)
