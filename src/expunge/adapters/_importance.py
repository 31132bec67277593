"""Row weights of every adapted matrix, kept in files, and the adapter that they give."""

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.integrations import dequantize_module_weight
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from expunge.adapters._factor import Svd, weighted_factors
from expunge.core.batch import Encoded
from expunge.core.cache import cache_path
from expunge.core.checks import ExpungeError, require_at_least
from expunge.core.manifest import fingerprint
from expunge.core.tensor_file import save_tensors
from expunge.models.fingerprint import model_fingerprint
from expunge.models.lowrank import Adapted, Factors, attach, check
from expunge.models.matrices import as_out_in, linear_layers, shape_of

LEAST_SHARE = 0.01
"""Below this share of entries with a retain importance above epsilon the retain set has no say."""


@dataclass(frozen=True)
class Importance:
    """How much the rows of each matrix matter to the forget set, relative to the retain set."""

    rows: Mapping[str, Tensor]
    """By matrix, `sum_j I[o, j]`, float32 [out]."""
    report: Mapping[str, Any]
    """`seconds`, `retain_median` (median over matrices of the median of F_r), `share_above_epsilon`."""


class Tally:
    """How the retain importance compares with epsilon, over all matrices."""

    def __init__(self) -> None:
        self.above = self.entries = 0
        self.medians: list[float] = []

    def add(self, retain: Tensor, epsilon: float | Tensor) -> None:
        """Count one matrix."""
        self.above += int((retain > epsilon).sum())
        self.entries += retain.numel()
        self.medians.append(float(retain.median()))

    def report(self) -> dict[str, float]:
        """In numbers."""
        return {
            "retain_median": float(torch.tensor(self.medians).median()),
            "share_above_epsilon": self.above / self.entries,
        }


def epsilon_of(epsilon: float | str, retain: Tensor) -> float | Tensor:
    """A number as it is, and `auto` as a tenth of the mean retain importance of a matrix."""
    return 0.1 * retain.mean() if isinstance(epsilon, str) else epsilon


def check_settings(epsilon: float | str, fisher: str, fisher_batch_size: int, svd: str) -> None:
    """Raise on settings out of range."""
    if isinstance(epsilon, str) and epsilon != "auto":
        raise ExpungeError(f"epsilon must be a number or auto; got {epsilon!r}.")
    if not isinstance(epsilon, str) and not epsilon > 0:
        raise ExpungeError(f"epsilon must be above 0; got {epsilon!r}.")
    for name, value, known in (
        ("fisher", fisher, ("example", "batch")),
        ("svd", svd, ("exact", "randomized")),
    ):
        if value not in known:
            raise ExpungeError(f"{name} must be {' or '.join(known)}; got {value!r}.")
    require_at_least("fisher_batch_size", fisher_batch_size, 1)


def key_of(
    kind: str,
    model: PreTrainedModel,
    matrices: Sequence[str],
    forget: Sequence[Encoded],
    retain: Sequence[Encoded],
    settings: Mapping[str, Any],
) -> str:
    """Fingerprint of what decides importance.

    Args:
        kind: of the adapter.
        model: the start model.
        matrices: what is adapted.
        forget: rows to forget.
        retain: rows of the retain set that are looked at.
        settings: what else decides the values.
    """
    return fingerprint(
        {
            "kind": kind,
            "model": model_fingerprint(model),
            "matrices": list(matrices),
            "forget": [[row.ids, row.start] for row in forget],
            "retain": [[row.ids, row.start] for row in retain],
            **settings,
        }
    )


def check_file(path: str | None, model: nn.Module, matrices: Sequence[str]) -> None:
    """Raise for a file that holds no importance of these matrices; of a model shapes alone are read."""
    if path is None or not Path(path).exists():
        return
    with _opened(Path(path)) as opened:
        layers = linear_layers(model)
        rows = {name: [shape_of(layers[name])[0]] for name in matrices}
        held = {name: opened.get_slice(name).get_shape() for name in opened.keys()}
    if held != rows:
        raise ExpungeError(
            f"the importance file {path} holds {len(held)} matrices, and they are not the {len(rows)} that are "
            "adapted, or of another size; name another file, or remove it to measure anew."
        )


def check_key(path: str | None, key: Callable[[], str]) -> None:
    """Raise for a file of other content.

    Args:
        path: the file; one that is missing is to be written.
        key: computes what decides the importance; only asked where there is a file.
    """
    if path is not None and Path(path).exists():
        with _opened(Path(path)) as opened:
            _require_key(Path(path), opened.metadata(), key())


def _require_key(file: Path, about: Mapping[str, str], key: str) -> None:
    if about["key"] != key:
        raise ExpungeError(
            f"the importance file {file} belongs to another model, other data or other settings; name another "
            "file, or remove it to measure anew."
        )


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            lacking = {"key", "report"} - {*(opened.metadata() or {})}
            if lacking:
                raise ExpungeError(
                    f"{file} is not an importance file: it lacks {' and '.join(sorted(lacking))} in its header. Name "
                    "one that an adapter wrote, or a new one to be written."
                )
            yield opened
    except (SafetensorError, OSError) as error:
        raise ExpungeError(
            f"cannot read the importance file {file}: {error}. Name one that an adapter wrote, or a new one to be "
            "written."
        ) from error


def kept(
    measure: Callable[[], Importance], *, key: str, kind: str, model: PreTrainedModel, path: str | None
) -> Importance:
    """Importance out of its file where the content it belongs to is known, else measured and written there.

    Args:
        measure: makes it.
        key: fingerprint of what decides it.
        kind: of the adapter.
        model: the start model.
        path: a file of one's own; None: the cache.

    Raises:
        ExpungeError: the file belongs to other content, or there is NaN or infinity in what was measured.
    """
    file = Path(path) if path else cache_path("importance", key).with_suffix(".safetensors")
    if file.is_file():
        with _opened(file) as opened:
            about = opened.metadata()
            _require_key(file, about, key)
            rows = {name: opened.get_tensor(name) for name in opened.keys()}
        return Importance(rows, json.loads(about["report"]) | {"importance": "stored"})
    found = measure()
    _require_finite(found, model, kind)
    file.parent.mkdir(parents=True, exist_ok=True)
    values = {name: value.cpu().contiguous() for name, value in found.rows.items()}
    save_tensors(values, file, {"key": key, "report": json.dumps(dict(found.report))})
    return Importance(found.rows, {**found.report, "importance": "measured"})


def _require_finite(importance: Importance, model: PreTrainedModel, kind: str) -> None:
    """Raise on NaN and infinity, naming a parameter where they come from."""
    broken = [name for name, value in importance.rows.items() if not bool(value.isfinite().all())]
    if not broken:
        return
    sick = [n for n, p in model.named_parameters() if p.is_floating_point() and not bool(p.isfinite().all())]
    why = f"because {sick[0]} holds NaN or infinity" if sick else "though all weights are finite: try another dtype"
    count = f"{len(broken)} of {len(importance.rows)} matrices"
    raise ExpungeError(f"{kind}: the importance of {broken[0]} ({count}) is not finite, {why}.")


def begun_with(
    importance: Importance,
    model: PreTrainedModel,
    matrices: Sequence[str],
    *,
    kind: str,
    epsilon: float | str,
    rank: int,
    lora_alpha: float | None,
    svd: Svd,
    seed: int,
) -> Adapted:
    """The model with adapters that begin as the weighted low-rank part of their matrices."""
    share = importance.report["share_above_epsilon"]
    if share < LEAST_SHARE:
        warnings.warn(
            f"{kind}: only {share:.2%} of the retain importances are above epsilon={epsilon} (their median is "
            f"{importance.report['retain_median']:.2g}), so the retain set hardly affects which directions are chosen. "
            "epsilon=auto scales it to each matrix.",
            stacklevel=2,
        )
    scaling = check(model, matrices, rank=rank, lora_alpha=lora_alpha)
    layers, start = linear_layers(model), {}
    began = time.perf_counter()
    for name in matrices:
        row_weights = importance.rows[name].sqrt()
        if not bool(row_weights.any()):
            raise ExpungeError(f"{kind}: the forget set gives {name} no gradient at all, so it has no important part.")
        weight = as_out_in(layers[name], dequantize_module_weight(layers[name]).detach())
        with torch.no_grad():
            start[name] = weighted_factors(
                weight.float(), row_weights.to(weight.device), rank=rank, scaling=scaling, svd=svd, seed=seed
            )
    report = {**importance.report, "svd_seconds": round(time.perf_counter() - began, 3)}
    factors: dict[str, Factors] = start
    return Adapted(attach(model, matrices, rank=rank, lora_alpha=lora_alpha, start=factors, seed=seed), report)
