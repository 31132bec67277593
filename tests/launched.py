"""Start processes of one group, as torchrun does, on CPU."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def run_ranks(
    *words: str, ranks: int = 2, cwd: Path | None = None, cache: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script, or `-m` and a module, in some processes on this machine, one thread each; its output as text.

    Args:
        *words: script or module, and its arguments.
        ranks: how many.
        cwd: where.
        cache: folder for what is kept; None: that of the tests.
    """
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    own = {} if cache is None else {"EXPUNGE_CACHE": str(cache)}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *launcher, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        | own,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """What the processes themselves said before they failed."""
    return (
        "\n".join(line for line in done.stderr.splitlines() if line.startswith("[rank"))[-4000:] or done.stderr[-4000:]
    )
