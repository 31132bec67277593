"""Killed at any write, a verb leaves nothing half and no mixture; the same command again gives what it always does."""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kills import DONE, FAILED, forked, kills, one_thread, quietly
from safetensors.torch import load_file

import zoo
from expunge.cli import main
from expunge.data.corpus import load_corpus
from expunge.evaluation import lm_eval
from expunge.experiments import _requests
from expunge.models.load import save_model
from expunge.results.attacked import load_attacked
from expunge.results.measures import Evaluation, Measure
from expunge.results.records import Records

pytestmark = pytest.mark.slow
GOES_ON = r"/parts/|/measured\.json"
"""What a verb keeps of its work until it is done."""


def call(*words: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0


def data(given: Path) -> list[str]:
    return [f"{split}={given / split}.jsonl" for split in ("forget", "retain")]


def unlearn(given: Path, place: Path, model: str, *flags: str) -> None:
    training = ("method=npo", "batch_size=3", "epochs=2", "checkpoint_every=1", "keep_checkpoints=0")
    call("unlearn", f"model={given / model}", *data(given), f"output={place}/run", *training, *flags)


def evaluate(given: Path, place: Path, model: str, *flags: str) -> None:
    words = ("metrics=forget_rouge,forget_extraction_strength", "label=model", "export=open-unlearning")
    call("evaluate", f"model={given / model}", *data(given), f"output={place}/records", *words, *flags)


def compare(given: Path, place: Path, model: str, *flags: str) -> None:
    call("compare", given / f"{model}-made/run", f"start={given / model}", f"output={place}/comparison", *flags)


def report(given: Path, place: Path, model: str, *flags: str) -> None:
    call("report", given / f"{model}-made/records", f"output={place}/report.html", *flags)


def localize(given: Path, place: Path, model: str, *flags: str) -> None:
    words = ("attribution=magnitude", "unit=weight", f"scores={place}/scores.safetensors")
    call("localize", f"model={given / model}", *data(given), f"output={place}/mask.safetensors", *words, *flags)


def mask_select(given: Path, place: Path, model: str, *flags: str) -> None:
    scores = given / f"{model}-made/scores.safetensors"
    call("mask", "select", scores, f"output={place}/mask.safetensors", "ratio=0.2", *flags)


def mask_complement(given: Path, place: Path, model: str, *flags: str) -> None:
    mask = given / f"{model}-made/mask.safetensors"
    call("mask", "complement", mask, f"output={place}/random.safetensors", *flags)


def mask_info(given: Path, place: Path, model: str, *flags: str) -> None:
    masks = (given / f"{name}-made/mask.safetensors" for name in dict.fromkeys((model, "model", "other")))
    call("mask", "info", *masks, f"output={place}/masks.svg", *flags)


def patch_create(given: Path, place: Path, model: str, *flags: str) -> None:
    run = given / f"{model}-made/run"
    call("patch", "create", f"base={given / model}", f"model={run}", f"output={place}/patch.safetensors", *flags)


def patch_apply(given: Path, place: Path, model: str, *flags: str) -> None:
    patch = given / f"{model}-made/patch.safetensors"
    call("patch", "apply", f"model={given / model}", f"patch={patch}", f"output={place}/unlearned", *flags)


def attack(given: Path, place: Path, model: str, *flags: str) -> None:
    words = ("attacks=quantize", "settings.quantize.forms=[int8]")
    call("attack", f"model={given / model}", *data(given), f"output={place}/attacked", *words, *flags)


def export(given: Path, place: Path, model: str, *flags: str) -> None:
    call("export", given / f"{model}-made/run", f"output={place}/release", "name=model", *flags)


def harness(given: Path, place: Path, model: str, *flags: str) -> None:
    call("harness", f"model={given / model}", f"output={place}/tasks", *flags)


def experiment(given: Path, place: Path, model: str, *flags: str) -> None:
    words = ("methods=grad_diff", "requests=2", "settings.epochs=1")
    call("experiment", "scalability", f"output={place}/scalability", *words, *flags)  # on `model`, see `small`


Verb = Callable[..., None]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def small(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A harness without lm-evaluation-harness, and an experiment on a small corpus and model."""
    measure = Measure(value=0.5, better="higher", n=2, definition="d", source="s")
    monkeypatch.setattr(lm_eval, "harness", lambda *_, label, **__: Evaluation({"task": measure}, label=label))
    corpus = load_corpus("synthetic", authors=5, facts=2, forget_authors=2, holdout_authors=0)
    monkeypatch.setattr(_requests, "embedded", lambda *_, **__: (corpus, given / "model", given / "model"))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with data and two models; of each a run from it, records, scores, a mask and a patch."""
    folder = tmp_path_factory.mktemp("given")
    for split, examples in zoo.corpus(3, 3).splits.items():
        lines = [json.dumps({"question": row.prompt, "answer": row.completion}) for row in examples]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    with one_thread(), pytest.MonkeyPatch.context() as patched:
        patched.setenv("EXPUNGE_CACHE", str(folder / "cache"))
        for seed, name in enumerate(("model", "other")):
            model = zoo.tiny_model(seed=seed, num_hidden_layers=1, max_position_embeddings=512, brief=True)
            save_model(model, zoo.tokenizer(), folder / name)
            for make in (unlearn, evaluate, localize, patch_create):
                quietly(partial(make, folder, folder / f"{name}-made", name))()
        yield folder


def read(path: Path) -> Any:
    """What a file says, without times, and without the order in which a header lists its entries."""
    if path.name == "records.parquet":
        records = Records.load(path.parent)
        return records.table.to_pylist(), records.manifest.inputs, records.manifest.arguments
    if path.name == "evaluation.json":
        found = Evaluation.load(path)
        return found.numbers(), found.samples, found.about["inputs"], found.about["settings"]
    if path.name == "attacked.json":
        return [replace(column, seconds=0.0) for column in load_attacked(path).columns]
    if path.name == "manifest.json":
        return {**json.loads(path.read_text()), "created": ""}
    if path.suffix == ".safetensors":
        return {name: tensor.tolist() for name, tensor in sorted(load_file(path).items())}
    return path.read_bytes()


def contents(place: Path) -> dict[str, str]:
    """Digests of all that is in a folder, of what was left over too."""
    files = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
    return {
        name: "" if hidden(name) else hashlib.sha256(repr(read(path)).encode()).hexdigest()[:8]
        for name, path in files.items()
    }


def hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def named(found: dict[str, str]) -> dict[str, str]:
    """What is there under names that a reader looks for: not what work goes on from after a kill."""
    return {name: what for name, what in found.items() if not hidden(name) and not re.search(GOES_ON, name)}


def swept(base: Path, work: Verb, before: Path | None = None) -> Counter[str]:
    """Kill some work at each of its writes, look at what is there, and do it again; how often there was what.

    Args:
        base: folder for all this.
        work: writes into the folder that it is given; further arguments are flags.
        before: what is in this folder is there before the work begins, which replaces it.
    """
    whole = base / "whole"
    shutil.copytree(before, whole) if before else whole.mkdir()
    quietly(lambda: work(whole))()
    new, old = contents(whole), contents(before) if before else {}
    assert new != old
    states = [("nothing", {}), ("all new", named(new)), ("all old", named(old))]
    found: Counter[str] = Counter()
    for what, place in kills(base, work, before):
        there = named(contents(place))
        assert any(there.items() <= of.items() for of in (old, new)), (what, there, old, new)
        found[next((name for name, state in states if there == state), "a part")] += 1
        again = forked(quietly(lambda place=place: work(place)))
        if again.code == FAILED and "is in use" in again.said and contents(place) != new:
            again = forked(quietly(lambda place=place: work(place, "--overwrite")))
        assert again.code == DONE or (contents(place) == new and "is in use" in again.said), (what, again.said)
        assert contents(place) == new, (what, set(contents(place).items()) ^ set(new.items()))
    print(f"{dict(found)}, {found.total()} in all")
    return found


ALONE = (evaluate, report, localize, mask_select, patch_create, patch_apply, attack, export, harness, experiment)
REPLACING = (
    evaluate,
    compare,
    report,
    localize,
    mask_select,
    mask_complement,
    mask_info,
    patch_create,
    attack,
    export,
    harness,
)


@pytest.mark.parametrize("verb", ALONE)
def test_killed_at_any_write_a_verb_leaves_whole_files_or_none(verb: Verb, given: Path, tmp_path: Path) -> None:
    found = swept(tmp_path, lambda place, *flags: verb(given, place, "model", *flags))
    assert {"nothing", "all new"} <= set(found)


@pytest.mark.parametrize("verb", REPLACING)
def test_killed_at_any_write_a_verb_that_replaces_leaves_no_mixture(verb: Verb, given: Path, tmp_path: Path) -> None:
    verb(given, tmp_path / "before", "other")
    found = swept(tmp_path, lambda place, *_: verb(given, place, "model", "--overwrite"), tmp_path / "before")
    assert {"all old", "all new"} <= set(found)
