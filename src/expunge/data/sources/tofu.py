"""TOFU: questions about fictitious authors (Maini et al. 2024, arXiv:2401.06121)."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from expunge.core.checks import ExpungeError, unknown
from expunge.core.surface import assigned
from expunge.data.corpus import Corpus, Example
from expunge.data.reading import read_dataset, read_file
from expunge.data.row import Row
from expunge.data.schema import Columns, examples
from expunge.data.sources.files import Source, files, is_local

HUB = "locuslab/TOFU"
_QUESTION = ("question", "answer")
_WRONG = (*_QUESTION, "perturbed_answer")
_VARIANTS = (*_WRONG, "paraphrased_answer")

Read = Callable[[str], list[Row]]


def tofu(
    *,
    forget: str = "forget10",
    path: str | Path | None = None,
    retain: Source | None = None,
    holdout: Source | None = None,
    sets: Mapping[str, Source] | None = None,
    columns: Columns | None = None,
) -> Corpus:
    """The TOFU benchmark: `forget01`, `forget05` or `forget10` with what goes with it.

    Splits: `forget` (with paraphrased and five wrong answers) and `retain`; where their files are there,
    `retain_perturbed` (400 retain rows with paraphrased and wrong answers), `real_authors` and `world_facts` (each with
    three wrong answers), and `holdout` (authors that no model was trained on).

    Args:
        forget: name of the forget split; `forget` for a folder whose files have no numbers.
        path: folder of its files, JSON lines called <split>.json or <split>.jsonl; those of the holdout may also be
            next to it in `tofu_holdout`. None: from the Hugging Face hub, `locuslab/TOFU`.
        retain: name of the retain split, or your own retain rows in its place, such as `own.jsonl`: whatever `files`
            reads. None: the split that completes `forget`, such as `retain90`.
        holdout: likewise; None: the split of the same size, such as `holdout10`, if there is one.
        sets: more sets of your own by name, such as further retain sets.
        columns: our names to yours, in your own sets.

    Raises:
        ExpungeError: an unknown split, a file without the columns it should have, a perturbed file that does not
            belong to its plain one, or a set of your own with a name of TOFU's.
    """
    names, read = _folder(Path(path).expanduser()) if path is not None else _hub()
    rest = _going_with(forget)
    named = {"retain": rest["retain"] if retain is None else retain, "holdout": holdout}
    plain = {n for n in names if not n.endswith("_perturbed")}
    forgettable = plain | {n.removesuffix("_perturbed") for n in names if n.startswith("forget")}
    own = {kind: source for kind, source in named.items() if source is not None and _is_own(source, plain)}
    of_tofu = {kind: str(name) for kind, name in named.items() if name is not None and kind not in own}
    for kind, name in {"forget": forget, **of_tofu}.items():
        known = [n for n in (forgettable if kind == "forget" else plain) if n.startswith(kind)]
        if name not in known:
            raise unknown(f"TOFU {kind} split", name, known, came_from=str(path or HUB))
    wanted = {
        "retain": (of_tofu.get("retain", ""), _QUESTION),
        "retain_perturbed": ("retain_perturbed", _VARIANTS),
        "real_authors": ("real_authors_perturbed", _WRONG),
        "world_facts": ("world_facts_perturbed", _WRONG),
        "holdout": ("" if "holdout" in own else of_tofu.get("holdout", rest["holdout"]), _QUESTION),
    }
    rows = {"forget": _forget_rows(forget, names, read)}
    rows |= {split: _checked(read(name), name, needed) for split, (name, needed) in wanted.items() if name in names}
    splits = {split: examples(r, what=f"TOFU's {split}") for split, r in rows.items()}
    if not own and not sets:
        if columns:
            raise ExpungeError(
                f"tofu: columns are named of your own sets, and none is given: {assigned(columns=columns)}"
            )
        return Corpus(splits, name="tofu")
    return _with_own(splits, files(retain=own.get("retain"), holdout=own.get("holdout"), sets=sets, columns=columns))


def _is_own(source: Source, splits: Collection[str]) -> bool:
    """Rows of the user rather than the name of a split? A split of that name goes first."""
    if not isinstance(source, str):
        return True
    return source not in splits and (re.fullmatch(r"\w+", source) is None or is_local(source))


def _with_own(splits: Mapping[str, tuple[Example, ...]], own: Corpus) -> Corpus:
    for name in own:
        if name in splits:
            raise ExpungeError(f"tofu: sets names a set '{name}', which TOFU has. Choose another name for the set.")
    first = {name: own[name] for name in ("retain", "holdout") if name in own}
    apart = tuple(dict.fromkeys(("retain", "holdout", *own)))
    joined = {"forget": splits["forget"], **first, **splits, **own.splits}
    return Corpus(joined, name="tofu", files=own.files, apart=apart)


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
