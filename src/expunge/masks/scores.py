"""Scores: how much each unit of a model is tied to the forget set, and the selection of a mask by them."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from expunge.core.checks import ExpungeError, path_of, require_at_least
from expunge.core.manifest import Manifest, jsonable
from expunge.core.tensor_file import reading
from expunge.masks.mask import Mask
from expunge.masks.storage import pack, read_header, write
from expunge.masks.top_k import CHUNK, top
from expunge.masks.units import Layout

Scope = Literal["global", "per_matrix", "per_row"]

FORMAT = "expunge scores 1"
DEFAULT_RATIO = 0.1
SHARD = 4 * 2**30
"""Most bytes of one file of scores; more go into several."""


@dataclass(frozen=True)
class Scores:
    """One number a unit; higher = more tied to the forget set.

    Attributes:
        layout: the units there are.
        values: group to scores, float32 `[units]`.
        scope: within what units are ranked, unless `select` gets another one.
        manifest: how the scores were made.
    """

    layout: Layout
    values: Mapping[str, Tensor]
    scope: Scope = "global"
    manifest: Manifest | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for group, n in self.layout.groups.items():
            came = self.values.get(group)
            if came is None or tuple(came.shape) != (n,) or came.dtype != torch.float32:
                form = "none" if came is None else f"{came.dtype} {list(came.shape)}"
                raise ExpungeError(f"the scores of {group} must be float32 [{n}], one a unit; got {form}.")

    def check_finite(self) -> None:
        """Raise where a score is NaN or infinite; the message names its parameter and index."""
        for group in self.layout.groups:
            for first in range(0, len(self.values[group]), CHUNK):
                bad = ~torch.isfinite(self.values[group][first : first + CHUNK])
                if bool(bad.any()):
                    where = first + int(bad.nonzero()[0])
                    raise ExpungeError(
                        f"score {where} of {group} is {float(self.values[group][where])}; scores must be finite to be "
                        "ranked. A loss or a gradient overflowed: use dtype=float32, and look at the forget set's loss."
                    )

    def select(
        self,
        *,
        ratio: float | None = None,
        count: int | None = None,
        threshold: float | None = None,
        scope: str | None = None,
        order: str = "top",
        modules: str | Sequence[str] | None = None,
    ) -> Mask:
        """The units with the highest scores, exactly; ties go to the parameter, then the index, that comes first.

        Args:
            ratio: share of units selected, in (0, 1]: max(1, floor(ratio * units)). 0.1 if nothing else is said.
            count: number of units selected instead.
            threshold: every unit with a score above it (below it with `order="bottom"`) instead.
            scope: `global` ranks all units jointly, `per_matrix` takes ratio or count inside every group (a parameter;
                the parameters of an MLP for neurons), `per_row` inside every output row (unit `weight`). None: as the
                attribution is meant, `per_row` for wanda and `global` for all others.
            order: `top`, or `bottom` for the lowest scores (a control).
            modules: regular expressions; only units of parameters with a name that one of them matches are looked at,
                and the mask knows no others.

        Raises:
            ExpungeError: more than one of ratio, count and threshold; one out of range; a non-finite score; a pattern
                that matches nothing; a scope that these units do not have.
        """
        check_selection(ratio=ratio, count=count, threshold=threshold, scope=scope, order=order)
        scores = self if modules is None else self.restricted(modules)
        scores.check_finite()
        layout, sizes, within = scores.layout, scores.layout.groups, scope or self.scope
        read = _Signed(scores.values, 1 if order == "top" else -1)
        if threshold is not None:
            bits = {group: scores._beyond(group, threshold, order) for group in sizes}
        elif within == "global":
            bits = top(sizes, read, _how_many(sum(sizes.values()), ratio, count, "units of the model"))
        elif within == "per_matrix":
            bits = {}
            for group, n in sizes.items():
                bits |= top({group: n}, read, _how_many(n, ratio, count, f"units of {group}"))
        else:
            bits = scores._per_row(read, ratio, count)
        given = {"ratio": ratio, "count": count, "threshold": threshold}
        asked: dict[str, Any] = {k: v for k, v in given.items() if v is not None} or {"ratio": DEFAULT_RATIO}
        asked |= {"order": order} | ({} if threshold is not None else {"scope": within})
        return Mask(layout, bits, self._selected(asked | ({} if modules is None else {"modules": modules}), bits))

    def restricted(self, modules: str | Sequence[str]) -> "Scores":
        """The scores of the groups of which a parameter's name matches one of the regular expressions."""
        patterns = [modules] if isinstance(modules, str) else list(modules)
        kept: set[str] = set()
        for pattern in patterns:
            found = {part.group for name, part in self.layout.parts.items() if re.search(pattern, name)}
            if not found:
                names = list(self.layout.parts)
                raise ExpungeError(
                    f"modules: '{pattern}' matches no scored parameter. There are {len(names)}, from {names[0]} to "
                    f"{names[-1]}."
                )
            kept |= found
        layout = replace(self.layout, parts={n: p for n, p in self.layout.parts.items() if p.group in kept})
        return replace(self, layout=layout, values={group: self.values[group] for group in layout.groups})

    def _beyond(self, group: str, threshold: float, order: str) -> Tensor:
        values = self.values[group]
        return pack(values > threshold if order == "top" else values < threshold)

    def _per_row(self, read: "_Signed", ratio: float | None, count: int | None) -> dict[str, Tensor]:
        bits = {}
        for name, part in self.layout.parts.items():
            if part.cut != "weights" or len(part.shape) != 2:
                raise ExpungeError(
                    f"scope=per_row ranks weights inside every output row of a matrix, and {name} is "
                    + (f"cut into units of {self.layout.unit}." if part.cut != "weights" else f"{list(part.shape)}.")
                )
            values = read(part.group, 0, part.numel).reshape(part.shape)
            rows = values if part.dim == 0 else values.T
            chosen = np.zeros(part.shape, bool)
            across = chosen if part.dim == 0 else chosen.T
            k = _how_many(rows.shape[1], ratio, count, f"weights in a row of {name}")
            step = max(1, CHUNK // rows.shape[1])
            for first in range(0, len(rows), step):
                across[first : first + step] = _row_tops(rows[first : first + step], k)
            bits[part.group] = pack(torch.from_numpy(chosen.reshape(-1)))
        return bits

    def _selected(self, asked: dict[str, Any], bits: Mapping[str, Tensor]) -> Manifest:
        mine = self.manifest or Manifest(stage="localize", arguments={})
        return replace(mine, arguments={**mine.arguments, "selection": jsonable(asked)})

    def save(self, path: str | Path, *, shard_bytes: int = SHARD) -> Path:
        """Write as safetensors, with layout and manifest in the header.

        More than `shard_bytes` go into several files next to `path`, and at `path` itself is the first of them.
        """
        path = Path(path)
        shards: list[dict[str, Tensor]] = [{}]
        size = 0
        for group in self.layout.groups:
            values = self.values[group].contiguous()
            if shards[-1] and size + 4 * len(values) > shard_bytes:
                shards.append({})
                size = 0
            shards[-1][group] = values
            size += 4 * len(values)
        for number in range(len(shards) - 1, -1, -1):  # the first one last: where it is, all others do
            header = {"format": FORMAT, "scope": self.scope, "shard": str(number), "shards": str(len(shards))}
            header["groups"] = json.dumps(list(shards[number]))
            write(_shard(path, number), shards[number], self.layout, self.manifest, header)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Scores":
        """Read what `save` wrote.

        Raises:
            ExpungeError: there is no such file, it holds no scores of ours, or one of its further files is missing.
        """
        path = path_of("path", path)
        layout, manifest, header = read_header(path, FORMAT, "scores")
        values: dict[str, Tensor] = {}
        with reading(path, "scores"):
            for number in range(int(header["shards"])):
                file = _shard(path, number)
                found = read_header(file, FORMAT, "scores")[2]
                expected = {**header, "shard": str(number)}
                if any(found[key] != expected[key] for key in ("layout", "shard", "shards")):
                    raise ExpungeError(f"{file} does not belong to the scores at {path}; store them again.")
                with safe_open(file, framework="pt") as opened:
                    values |= {group: opened.get_tensor(group) for group in json.loads(found["groups"])}
            scope: Any = header["scope"]
            return cls(layout, values, scope, manifest)


def check_count(count: int | None, groups: Mapping[str, int], scope: str | None) -> None:
    """Raise for a count that is larger than the number of units it is taken from, before anything is scored.

    Args:
        count: units to select; None: they are not counted.
        groups: units by group.
        scope: within what they are ranked; None and `global`: all jointly.
    """
    if count is None or scope not in (None, "global", "per_matrix"):
        return  # a row's length is known to the scores alone
    for what, n in groups.items() if scope == "per_matrix" else (("the model", sum(groups.values())),):
        _how_many(n, None, count, f"units of {what}")


def check_selection(
    *, ratio: float | None, count: int | None, threshold: float | None, scope: str | None, order: str
) -> None:
    """Raise where what is asked of `Scores.select` cannot be, as far as that is known without scores.

    Raises:
        ExpungeError: more than one of ratio, count and threshold, a ratio or count that no scores allow, an unknown
            scope or order, or a scope with a threshold.
    """
    given = {k: v for k, v in (("ratio", ratio), ("count", count), ("threshold", threshold)) if v is not None}
    if len(given) > 1:
        raise ExpungeError(f"select takes one of ratio, count and threshold; got {' and '.join(given)}.")
    if ratio is not None and not 0 < ratio <= 1:
        raise ExpungeError(f"ratio must be above 0 and at most 1; got {ratio!r}.")
    if count is not None:
        require_at_least("count", count, 1)
    if threshold is not None and math.isnan(threshold):
        raise ExpungeError("threshold must be a number; got nan, which no score is above or below.")
    if order not in ("top", "bottom"):
        raise ExpungeError(f"order must be top or bottom; got {order!r}.")
    if threshold is not None and scope is not None:
        raise ExpungeError(f"a threshold is the same in every scope; leave out scope={scope}.")
    if scope not in (None, "global", "per_matrix", "per_row"):
        raise ExpungeError(f"scope must be global, per_matrix or per_row; got {scope!r}.")


class _Signed:
    """Reads scores so that what is selected is the largest."""

    def __init__(self, values: Mapping[str, Tensor], sign: int) -> None:
        self.values, self.sign = values, sign

    def __call__(self, group: str, start: int, stop: int) -> NDArray[np.float32]:
        numbers: NDArray[np.float32] = self.values[group][start:stop].cpu().numpy()
        return numbers if self.sign > 0 else -numbers


def _shard(path: Path, number: int) -> Path:
    return path if number == 0 else path.with_name(f"{path.stem}-{number + 1:05d}{path.suffix}")


def _how_many(n: int, ratio: float | None, count: int | None, what: str) -> int:
    if count is not None:
        if count > n:
            raise ExpungeError(f"count must be between 1 and {n}, the number of {what}; got {count!r}.")
        return count
    ratio = DEFAULT_RATIO if ratio is None else ratio
    return max(1, math.floor(Fraction(repr(float(ratio))) * n))  # as it is written: 0.29 of 100 is 29, not 28.99...


def _row_tops(rows: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """The k largest of each row; of equal ones those that come first."""
    edge = np.partition(rows, rows.shape[1] - k, axis=1)[:, rows.shape[1] - k, None]
    above, equal = rows > edge, rows == edge
    ties = k - above.sum(1, keepdims=True)
    chosen: NDArray[np.bool_] = above | (equal & (equal.cumsum(1) <= ties))
    return chosen
