"""How fast this machine computes, for estimates of time before anything is loaded."""

import time

import torch

SIDE = 1024
"""Side of the matrices that are multiplied."""


def speed() -> float:
    """Floating-point operations a second of a matrix product here, on the device that a run would take."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.rand(SIDE, SIDE, device=device)
    times = []
    for _ in range(4):  # the first one also starts threads and libraries
        began = time.perf_counter()
        (matrix @ matrix).sum().item()
        times.append(time.perf_counter() - began)
    return float(2 * SIDE**3 / min(times))
