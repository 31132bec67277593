"""Partial results: what a collection has computed so far, on disk, so that a killed one goes on from there."""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.core.whole import whole_file

SECONDS = 10.0
"""How much work a killed collection may lose."""

_IDS = pa.list_(pa.int32())
_NUMBERS = pa.list_(pa.float64())
SCHEMAS: dict[str, pa.Schema] = {
    "scores": pa.schema(
        {"ids": _IDS, "start": pa.int32(), "logprobs": _NUMBERS, "hits": pa.list_(pa.bool_())}
        | {"means": _NUMBERS, "variances": _NUMBERS}
    ),
    "generations": pa.schema({"ids": _IDS, "tokens": _IDS}),
    "gradients": pa.schema({"ids": _IDS, "start": pa.int32(), "norm": pa.float64()}),
}


class Partial:
    """Rows of several kinds, kept in a folder as they come: written every few seconds, each file whole or not there.

    Without a folder nothing is kept. Ranks write files of their own into one folder, and read those of all.
    """

    def __init__(self, folder: Path | None, *, rank: int = 0, seconds: float = SECONDS) -> None:
        """Keep rows in `folder`, or nowhere.

        Args:
            folder: where; made with the first file.
            rank: of this process.
            seconds: least time between two files.
        """
        self.folder, self._rank, self._seconds = folder, rank, seconds
        self._held: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in SCHEMAS}
        self._written = time.monotonic()

    def read(self, kind: str) -> list[dict[str, Any]]:
        """All rows of a kind that are in the folder; those of a damaged file are to be computed again."""
        if self.folder is None:
            return []
        found: list[dict[str, Any]] = []
        for file in sorted(self.folder.glob(f"{kind}-*.parquet")):
            with suppress(pa.ArrowException, OSError):
                found += pq.read_table(file, schema=SCHEMAS[kind], page_checksum_verification=True).to_pylist()
        return found

    def add(self, kind: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep rows; they are on disk some seconds later, or after `flush`."""
        if self.folder is None:
            return
        self._held[kind] += rows
        if time.monotonic() - self._written >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        for kind, rows in self._held.items():
            if rows and self.folder is not None:
                self._write(self.folder, kind, rows)
                self._held[kind] = []
        self._written = time.monotonic()

    def _write(self, folder: Path, kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{kind}-{self._rank}-{len(list(folder.glob(f'{kind}-{self._rank}-*.parquet'))):06d}.parquet"
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMAS[kind])
        with whole_file(folder / name) as aside:
            pq.write_table(table, aside, compression="zstd", write_page_checksum=True)
