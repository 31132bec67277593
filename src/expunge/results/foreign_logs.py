"""Records from elsewhere: our own folders, and the per-example logs of open-unlearning and of TOFU's own scripts."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from expunge.core.checks import ExpungeError
from expunge.core.json_text import parse_json
from expunge.core.manifest import Manifest, fingerprint
from expunge.results.places import check_own, places
from expunge.results.records import FILE, LOG_NUMBERS, SCHEMA, Records

Cell = tuple[str, str, int, int]
"""split, answer, index and number of a row."""


def load_records(path: str | Path) -> Records:
    """Open records of ours, or another program's per-example log as records.

    Args:
        path: a folder with records, or a model folder whose records are next to it (`<folder>-records`) or in it, an
            open-unlearning `TOFU_EVAL.json` or `MUSE_EVAL.json`, a TOFU `eval_log_aggregated.json`, or a folder with
            one of them.

    Returns:
        Records. Those of a log hold finished numbers instead of tokens, and generations only where the log has them;
        what it lacks is absent, with the reason in the measures that would need it. Where it has a null for an example,
        that example is left out of what needs the number, as open-unlearning does, and counted in the note; a NaN makes
        the measure missing. Metrics of the log that no column is for are kept by their aggregates, in
        `manifest.results["log_values"]`, and become measures of an evaluation.

    Raises:
        ExpungeError: nothing is there, it is neither, it is damaged, or the model in the folder has other weights by
            now.
    """
    if not isinstance(path, str | Path):
        raise ExpungeError(f"records are read from a path; got {type(path).__name__}. {_HOW_TO}")
    path = Path(path)
    if path.is_file() and path.name != FILE:
        return _from_log(path)
    for folder in [path.parent] if path.is_file() else places(path):
        if (folder / FILE).is_file():
            found = Records.load(folder)
            check_own(path, found.manifest.inputs, found.manifest.arguments, folder / FILE)
            return found
    for name in LOGS:
        if (path / name).is_file():
            return _from_log(path / name)
    if not path.exists():
        raise ExpungeError(f"no records at {path}: there is no such file or folder. {_HOW_TO}")
    raise ExpungeError(f"no records in {path}: it holds no {FILE}. {_HOW_TO}")


LOGS = ("TOFU_EVAL.json", "MUSE_EVAL.json", "eval_log_aggregated.json")
"""What the logs are called that are read from a folder."""
_HOW_TO = "Make them: expunge evaluate model=<model> output=<folder>"


def _from_log(path: Path) -> Records:
    try:
        content = parse_json(path.read_text("utf-8"), str(path))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ExpungeError(f"{path} is neither a folder with records nor a JSON log: {error}.") from error
    for form in FORMATS:
        if isinstance(content, dict) and form.matches(content):
            return form.records(content, path)
    summary = isinstance(content, dict) and content and all(isinstance(v, int | float | None) for v in content.values())
    why = "it holds aggregates only; the per-example log is next to it" if summary else "it looks like none of them"
    raise ExpungeError(
        f"{path} cannot be read as a log: {why}. Known logs: {', '.join(form.name for form in FORMATS)}."
    )


@dataclass(frozen=True)
class LogSource:
    """Where a log keeps numbers of one kind of answer, and under which column they go."""

    key: tuple[str, ...]
    """Path of keys in the log down to a mapping from example to number, or to a mapping with `field`."""
    split: str
    answer: str
    column: str
    field: str | None = None

    def cells(self, content: Mapping[str, Any]) -> Iterator[tuple[Cell, Any]]:
        """Every number: several an example where the log keeps a list."""
        found: Any = content
        for key in self.key:
            found = found.get(key) if isinstance(found, Mapping) else None
        for index, value in found.items() if isinstance(found, Mapping) else ():
            if not index.isdigit():
                raise ExpungeError(f"'{'.'.join(self.key)}' of the log numbers its examples; one is called '{index}'.")
            number = value.get(self.field) if self.field and isinstance(value, Mapping) else value
            for k, one in enumerate(number if isinstance(number, list) and self.answer == "perturbed" else [number]):
                if one is not None and not isinstance(one, int | float):
                    raise ExpungeError(f"'{'.'.join(self.key)}' of the log holds no number for example {index}: {one}")
                yield (self.split, self.answer, int(index), k), one

    def texts(self, content: Mapping[str, Any]) -> Iterator[tuple[Cell, dict[str, str]]]:
        """Prompt, true answer and generation of each example, where the log keeps them beside its numbers."""
        found: Any = content
        for key in self.key:
            found = found.get(key) if isinstance(found, Mapping) else None
        for index, value in found.items() if isinstance(found, Mapping) and self.answer != "perturbed" else ():
            held = value if isinstance(value, Mapping) else {}
            texts = {ours: held[theirs] for theirs, ours in _TEXTS_IN.items() if isinstance(held.get(theirs), str)}
            if texts:
                yield (self.split, self.answer, int(index), 0), texts


_TEXTS_IN = {"input": "prompt", "ground_truth": "completion", "generation": "generation"}
"""What open-unlearning calls the texts of an example, and their columns."""
_FOLLOWING = (
    "forget_quality",
    "model_utility",
    "privleak",
    "forget_truth_ratio",
    "forget_Truth_Ratio",
    "retain_Truth_Ratio",
    "ra_Truth_Ratio",
    "wf_Truth_Ratio",
    "ra_Q_A_Prob_normalised",
    "wf_Q_A_Prob_normalised",
)
"""Metrics of open-unlearning that are computed again from the numbers of the examples."""


@dataclass(frozen=True)
class _Format:
    name: str
    sources: tuple[LogSource, ...]
    of_its_own: tuple[str, ...] = ()
    """What names of metrics must hold for a log to be of this form; empty: nothing more than what is read."""

    def matches(self, content: Mapping[str, Any]) -> bool:
        if self.of_its_own and not any(part in name for name in content for part in self.of_its_own):
            return False
        return any(any(True for _ in source.cells(content)) for source in self.sources if source.key[0] in content)

    def _other_values(self, content: Mapping[str, Any]) -> dict[str, float]:
        """Aggregates of the metrics that are neither read example by example nor follow from what is."""
        known = {source.key[0] for source in self.sources} | {*_FOLLOWING}
        return {
            name: float(value["agg_value"])
            for name, value in content.items()
            if name not in known and isinstance(value, Mapping) and isinstance(value.get("agg_value"), int | float)
        }

    def records(self, content: Mapping[str, Any], path: Path) -> Records:
        rows: dict[Cell, dict[str, Any]] = {}
        absent: dict[str, str] = {}
        for source in self.sources:
            name, held = f"{source.split}/question/{source.answer}", False
            for cell, value in source.cells(content):
                # A null is a gap of one example; its row stands, so that the log's size is known.
                rows.setdefault(cell, _empty(cell))[source.column] = value
                held |= value is not None
            for cell, texts in source.texts(content):
                rows.setdefault(cell, _empty(cell)).update(texts)
            if not held:
                reason = f"the log {path.name} has no '{'.'.join(source.key)}'"
                absent |= {f"{name}/{source.column}": reason, name: absent.get(name, reason)}
        for row in rows.values():
            if (row.get("probability") or 0) < 0:
                raise ExpungeError(
                    f"the log {path.name} holds the probability {row['probability']} for example {row['index']} of "
                    f"{row['split']}; it must be between 0 and 1."
                )
            if row.get("avg_loss") is None and row.get("probability") is not None:
                row["avg_loss"] = -math.log(row["probability"]) if row["probability"] != 0 else math.inf
        for split, answer, *_ in rows:
            absent.pop(f"{split}/question/{answer}", None)
        manifest = Manifest(
            stage="evaluate",
            arguments={"format": self.name, "path": str(path)},
            inputs={"log": fingerprint(path.read_bytes())},
            results={"absent": absent, "log_values": self._other_values(content)},
        )
        return Records(pa.Table.from_pylist(list(rows.values()), schema=_SCHEMA), manifest)


_TEXTS = ("prompt", "completion", "generation")
_SCHEMA = pa.schema(
    [
        *(SCHEMA.field(name) for name in ("split", "index", "asked", "answer", "number", *_TEXTS)),
        *((name, pa.float64()) for name in LOG_NUMBERS),
    ]
)


def _empty(cell: Cell) -> dict[str, Any]:
    split, answer, index, number = cell
    return {"split": split, "index": index, "asked": "question", "answer": answer, "number": number}


def open_unlearning() -> Iterator[LogSource]:
    """Where open-unlearning's `TOFU_EVAL.json` keeps which numbers; read here and written by `export`."""
    splits = {"forget": "forget", "retain": "retain_perturbed", "ra": "real_authors", "wf": "world_facts"}
    roles = {"Q_A": "answer", "Q_A_PARA": "paraphrased", "Q_A_PERT": "perturbed"}
    for prefix, split in splits.items():
        for infix, answer in roles.items():
            probability = (f"{prefix}_{infix}_Prob", "value_by_index")
            yield LogSource(probability, split, answer, "avg_loss", "avg_loss")
            yield LogSource(probability, split, answer, "probability", "prob")
            for column in ("rouge1_recall", "rougeL_recall", "rougeL_f1"):
                yield LogSource((f"{prefix}_{infix}_ROUGE", "value_by_index"), split, answer, column, column)
    for answer in ("paraphrased", "perturbed"):  # both are asked for it; a log may hold it without their losses
        yield LogSource(("forget_truth_ratio", "value_by_index"), "forget", answer, "truth_ratio", "score")
    for name in ("exact_memorization", "extraction_strength"):
        yield LogSource((name, "value_by_index"), "forget", "answer", name, "score")
    for score in ("loss", "zlib", "min_k", "min_k_plus_plus", "reference", "gradnorm"):
        for split in ("forget", "holdout"):
            yield LogSource((f"mia_{score}", split, "value_by_index"), split, "answer", f"mia_{score}", "score")


def _muse() -> Iterator[LogSource]:
    texts = {
        "forget_knowmem_ROUGE": ("knowmem_forget", "answer"),
        "retain_knowmem_ROUGE": ("knowmem_retain", "answer"),
        "forget_verbmem_ROUGE": ("verbmem", "opening"),
    }
    for key, (split, answer) in texts.items():
        for column in ("rouge1_recall", "rougeL_recall", "rougeL_f1"):
            yield LogSource((key, "value_by_index"), split, answer, column, column)
    for name in ("exact_memorization", "extraction_strength"):
        yield LogSource((name, "value_by_index"), "verbmem", "opening", name, "score")
    yield from (source for source in open_unlearning() if source.key[0].startswith("mia_"))


def _tofu() -> Iterator[LogSource]:
    files = {
        "eval_log_forget": "forget",
        "eval_log": "retain_perturbed",
        "eval_real_author_wo_options": "real_authors",
        "eval_real_world_wo_options": "world_facts",
    }
    for stem, split in files.items():
        file = f"{stem}.json"
        yield LogSource((file, "avg_gt_loss"), split, "answer", "avg_loss")
        yield LogSource((file, "average_perturb_loss"), split, "perturbed", "avg_loss")
        # What it calls paraphrased is the plain answer, computed once more, where there is no paraphrase.
        paraphrased = split in ("forget", "retain_perturbed")
        column = "avg_loss" if paraphrased else "truth_ratio_loss"
        yield LogSource((file, "avg_paraphrased_loss"), split, "paraphrased" if paraphrased else "answer", column)
        for column in ("rouge1_recall", "rougeL_recall"):
            yield LogSource((file, column), split, "answer", column)


@dataclass(frozen=True)
class _WithTexts(_Format):
    """TOFU's logs keep [prompt, generation, true answer] of each example too."""

    def records(self, content: Mapping[str, Any], path: Path) -> Records:
        """As for any log, with the texts where there are some."""
        found = super().records(content, path)
        texts = {
            (source.split, int(index)): three
            for source in self.sources
            for index, three in content.get(source.key[0], {}).get("generated_text", {}).items()
        }
        rows = found.table.to_pylist()
        for row in rows:
            three = texts.get((row["split"], row["index"]))
            if three and row["answer"] == "answer":
                row["prompt"], row["generation"], row["completion"] = three
        return Records(pa.Table.from_pylist(rows, schema=_SCHEMA), found.manifest)


_MORE_OF_TOFU = tuple(
    LogSource((f"retain_{name}", "value_by_index"), "retain_perturbed", "answer", name, "score")
    for name in ("exact_memorization", "extraction_strength")
)
"""What its newer logs hold besides, and `export` does not write."""

FORMATS: tuple[_Format, ...] = (
    _Format("open-unlearning MUSE_EVAL.json", tuple(_muse()), of_its_own=("knowmem", "verbmem")),
    _Format("open-unlearning TOFU_EVAL.json", (*open_unlearning(), *_MORE_OF_TOFU)),
    _WithTexts("TOFU eval_log_aggregated.json", tuple(_tofu())),
)
