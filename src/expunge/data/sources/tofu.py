"""TOFU: questions about fictitious authors (Maini et al. 2024, arXiv:2401.06121)."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from expunge.core.checks import ExpungeError, unknown
from expunge.data.corpus import Corpus
from expunge.data.reading import read_dataset, read_file
from expunge.data.row import Row
from expunge.data.schema import examples

HUB = "locuslab/TOFU"
_QUESTION = ("question", "answer")
_WRONG = (*_QUESTION, "perturbed_answer")
_VARIANTS = (*_WRONG, "paraphrased_answer")

Read = Callable[[str], list[Row]]


def tofu(
    *, forget: str = "forget10", path: str | Path | None = None, retain: str | None = None, holdout: str | None = None
) -> Corpus:
    """The TOFU benchmark: `forget01`, `forget05` or `forget10` with what goes with it.

    Splits: `forget` (with paraphrased and five wrong answers) and `retain`; where their files are there,
    `retain_perturbed` (400 retain rows with paraphrased and wrong answers), `real_authors` and `world_facts` (each with
    three wrong answers), and `holdout` (authors that no model was trained on).

    Args:
        forget: name of the forget split; `forget` for a folder whose files have no numbers.
        path: folder of its files, JSON lines called <split>.json or <split>.jsonl; those of the holdout may also be
            next to it in `tofu_holdout`. None: from the Hugging Face hub, `locuslab/TOFU`.
        retain: name of the retain split; None: the one that completes `forget`, such as `retain90`.
        holdout: name of the holdout split; None: the one of the same size, such as `holdout10`, if there is one.

    Raises:
        ExpungeError: an unknown split, a file without the columns it should have, or a perturbed file that does not
            belong to its plain one.
    """
    names, read = _folder(Path(path).expanduser()) if path is not None else _hub()
    rest = _going_with(forget)
    retain = retain or rest["retain"]
    plain = {n for n in names if not n.endswith("_perturbed")}
    forgettable = plain | {n.removesuffix("_perturbed") for n in names if n.startswith("forget")}
    for kind, name, there in (("forget", forget, forgettable), ("retain", retain, plain), ("holdout", holdout, plain)):
        known = [n for n in there if n.startswith(kind)]
        if name is not None and name not in known:
            raise unknown(f"TOFU {kind} split", name, known, came_from=str(path or HUB))
    wanted = {
        "retain": (retain, _QUESTION),
        "retain_perturbed": ("retain_perturbed", _VARIANTS),
        "real_authors": ("real_authors_perturbed", _WRONG),
        "world_facts": ("world_facts_perturbed", _WRONG),
        "holdout": (holdout or rest["holdout"], _QUESTION),
    }
    rows = {"forget": _forget_rows(forget, names, read)}
    rows |= {split: _checked(read(name), name, needed) for split, (name, needed) in wanted.items() if name in names}
    return Corpus({split: examples(r, what=f"TOFU's {split}") for split, r in rows.items()}, name="tofu")


def _folder(folder: Path) -> tuple[Sequence[str], Read]:
    if not folder.is_dir():
        raise ExpungeError(
            f"tofu: no folder at '{folder}'. Name the one with forget10.json, or leave path out for the hub."
        )
    beside = folder.parent / "tofu_holdout"
    found = [*sorted(beside.glob("holdout*")), *sorted(folder.iterdir())]  # of two files of one name, the last counts
    files: Mapping[str, Path] = {p.stem: p for p in found if p.suffix in (".json", ".jsonl")}
    return sorted(files), lambda name: read_file(files[name])


def _hub() -> tuple[Sequence[str], Read]:
    import datasets  # takes a second to import, which those with a folder need not wait for

    try:
        names = datasets.get_dataset_config_names(HUB)
    except (OSError, ValueError) as error:
        raise ExpungeError(f"tofu: cannot get {HUB} ({error}). With its files at hand: path=<folder>.") from error
    return sorted(names), lambda name: read_dataset(f"{HUB}:{name}:train")


def _going_with(forget: str) -> dict[str, str]:
    numbered = re.fullmatch(r"forget(\d\d)", forget)
    if numbered is None:
        return {"retain": "retain", "holdout": "holdout"}
    return {"retain": f"retain{100 - int(numbered[1])}", "holdout": f"holdout{numbered[1]}"}


def _forget_rows(forget: str, names: Sequence[str], read: Read) -> list[Row]:
    perturbed = f"{forget}_perturbed"
    if perturbed not in names:
        return _checked(read(forget), forget, _QUESTION)
    rows = _checked(read(perturbed), perturbed, _VARIANTS)
    if forget in names:
        plain = _checked(read(forget), forget, _QUESTION)
        both = zip(rows, plain, strict=False)
        differ = [a.origin for a, b in both if any(a.values[c] != b.values[c] for c in _QUESTION)]
        if differ or len(rows) != len(plain):
            raise ExpungeError(
                f"tofu: {perturbed} ({len(rows)} rows) does not hold the questions and answers of {forget} "
                f"({len(plain)} rows); they differ first at {differ[0] if differ else 'the end'}. One of them is of "
                "another version."
            )
    return rows


def _checked(rows: list[Row], name: str, needed: Sequence[str]) -> list[Row]:
    for row in rows:
        missing = [column for column in needed if column not in row.values]
        if missing:
            raise ExpungeError(
                f"tofu: {row.origin} of '{name}' has no {', '.join(missing)}; it holds {', '.join(row.values)}. "
                f"Rows of '{name}' need {', '.join(needed)}."
            )
    return rows
