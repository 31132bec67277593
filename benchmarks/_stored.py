"""What the benchmarks share: what a result says of itself, where it is stored, and a case in a process of its own."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from expunge.core.manifest import versions


def about(what: str | None, **more: Any) -> dict[str, Any]:
    """What was measured, where, when and with which versions.

    Args:
        what: docstring of the benchmark, of which the first line is kept.
        more: what else is to be known.
    """
    return {
        "what": (what or "").splitlines()[0],
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "measured": datetime.now(timezone.utc).date().isoformat(),
        "versions": versions(),
        **more,
    }


def store(output: Path, told: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Write a result; called after each case, a run that is stopped leaves what it measured."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"about": told, **more, "rows": rows}, indent=1) + "\n")


def in_own_process(script: str, case: Any, **environment: str) -> Any:
    """What a script prints last, as JSON, for a case in a process of its own.

    Args:
        script: file of the benchmark, which takes `--threads` and `--case`.
        case: a dataclass.
        environment: variables of that process.
    """
    words = ["--threads", str(torch.get_num_threads()), "--case", json.dumps(asdict(case))]
    ours = {**os.environ, **environment}
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False, env=ours)
    if done.returncode:
        raise RuntimeError(f"{case}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
