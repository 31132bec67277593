"""A dry run refuses what the run refuses, with the same words; and what it lets pass, the run lets pass."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import zoo
from expunge.cli.verb import DRY_RUN
from expunge.models.load import save_model
from made_masks import made_mask

NAMES = "down_proj|q_proj"
REFUSED: dict[str, tuple[str, ...]] = {
    # method and objective
    "unknown method": ("method=nop",),
    "method of another model": ("method=rt_diff",),
    "hyperparameter out of range": ("beta=-1",),
    "hyperparameter of another method": ("method=grad_diff", "beta=0.1"),
    "layer beyond the model": ("method=rmu", "layer=9"),
    "surgery without a retain loss": ("surgery=gru", "retain_loss=none"),
    "surgery with no weight on it": ("surgery=gru", "alpha=0"),
    "bound on another retain loss": ("method=pdu", "eps=1", "retain_loss=kl"),
    "gamma below zero": ("gamma=-1",),
    "retain set to be forgotten": ("retain_sets.forget=1",),
    "retain set that is not there": ("retain_sets.general=1",),
    # stop rules
    "stop by what no retain model gives": ("stop=forget_quality<=0.1",),
    "stop by what no holdout set gives": ("stop=privleak<=0.1",),
    "stop by a measure of variants": ("stop=forget_truth_ratio<=0.1", "stop_suite=tofu"),
    # training
    "batches that do not divide": ("batch_size=8", "micro_batch_size=3"),
    "rate out of range": ("learning_rate=2",),
    "no such packing": ("packing=always",),
    "attention that the model lacks": ("model={folder}/gemma2", "attention=sdpa"),
    "attention that the model cannot be switched to": ("model={folder}/gpt_neo", "attention=sdpa"),
    # masks and patches
    "no mask there": ("mask={folder}/nowhere.safetensors",),
    "mask of another model": ("mask={folder}/other.safetensors",),
    "patch without a mask": ("patch=true",),
    "patch with an adapter": ("adapter=lora", "mask={folder}/matrix.safetensors", "targets=all-linear", "patch=true"),
    "weight mask with an adapter": ("adapter=lora", "mask={folder}/weight.safetensors"),
    "mask beyond the targets": ("adapter=lora", "mask={folder}/norms.safetensors"),
    # adapters
    "unknown adapter": ("adapter=lore",),
    "save without an adapter": ("save=adapter",),
    "targets without an adapter": ("targets=mlp",),
    "unknown way to save": ("adapter=lora", "save=merge"),
    "targets that match nothing": ("adapter=lora", "targets=nothing_like_it"),
    "targets behind the layer": ("method=rmu", "layer=1", "adapter=lora", "targets=all-linear"),
    "rank above the matrices": ("adapter=lora", "rank=64"),
    "dropout out of range": ("adapter=lora", "dropout=2"),
    "adapter that needs a retain set": ("adapter=fila", "retain=null", "method=grad_ascent", "retain_loss=none"),
    "setting of an adapter without one": ("rank=4",),
    "quantized without an adapter": ("bits=4",),
    "adapter over perturbed weights": ("adapter=lora", "method=undo"),
    "perturbation out of range": ("method=undo", "perturbation=2"),
    # data
    "no retain set": ("retain=null",),
    "no such file": ("forget={folder}/nowhere.jsonl",),
    "no such column": ("columns.question=q",),
    "rows cut before their answer": ("max_length=2",),
    # stop rules
    "condition that cannot be read": ("stop=forget_rouge is low",),
    "unknown measure": ("stop=forget_rogue<=0.1",),
    "unseen text without a holdout set": ("stop=forget_rouge<=unseen",),
    "no rows to measure": ("stop=forget_rouge<=0.1", "stop_rows=0"),
    # model and output
    "no such model": ("model={folder}/nowhere",),
    "tokenizer of another size": ("tokenizer={folder}/larger",),
    "folder in use": ("output={folder}/used",),
    "nothing to resume": ("--resume",),
}
TRAIN_REFUSED: dict[str, tuple[str, ...]] = {
    "no such split": ("splits=world",),
    "no mask there": ("mask={folder}/nowhere.safetensors",),
    "mask of another model": ("mask={folder}/other.safetensors",),
    "patch without a mask": ("patch=true",),
    "batches that do not divide": ("batch_size=8", "micro_batch_size=3"),
    "folder in use": ("output={folder}/used",),
}
ALLOWED: dict[str, tuple[str, ...]] = {
    "plain": (),
    "matrix mask with an adapter": ("adapter=lora", "mask={folder}/matrix.safetensors", "targets=all-linear"),
    "masked with a patch": ("mask={folder}/weight.safetensors", "patch=true"),
    "own matrices": ("method=rmu", "layer=1", "adapter=lora"),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks that fit and one that does not, a folder in use, and a tokenizer with more tokens than the model."""
    home = tmp_path_factory.mktemp("dry")
    model = zoo.tiny_model(max_position_embeddings=512)
    made_mask(model, "matrix", NAMES).save(home / "matrix.safetensors")
    made_mask(model, "matrix", "layernorm|q_proj").save(home / "norms.safetensors")
    made_mask(model, "weight", NAMES).save(home / "weight.safetensors")
    made_mask(zoo.tiny_model("gpt2"), "weight", "mlp").save(home / "other.safetensors")
    for architecture in ("gemma2", "gpt_neo"):
        save_model(zoo.tiny_model(architecture, max_position_embeddings=512), zoo.tokenizer(), home / architecture)
    (home / "used").mkdir()
    (home / "used/notes.txt").write_text("mine")
    tokenizer = deepcopy(zoo.tokenizer())  # the tests share it
    tokenizer.add_tokens([f"<more {i}>" for i in range(2000)])
    tokenizer.save_pretrained(home / "larger")
    return home


def answers(
    call: Callable[..., Any], verb: str, given: tuple[str, ...], model_folder: Path, data: Path, folder: Path, out: Path
) -> tuple[Any, Any]:
    """What the dry run says, and what the run says."""
    files = (f"data={data}/retain.jsonl",) if verb == "train" and not any("splits" in word for word in given) else ()
    if not files:
        files = (f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl")
    words = (verb, f"model={model_folder}", *files, f"output={out}/run", "epochs=1", "batch_size=6")
    words = (*words, *(word.replace("{folder}", str(folder)) for word in given))
    dry = call(*words, "--dry-run")
    assert not (out / "run").exists()
    return dry, call(*words)


def plain(text: str) -> str:
    """One line, without what is said of settings that a case replaces."""
    return " ".join(" ".join(line for line in text.splitlines() if "times; the last one counts" not in line).split())


@pytest.mark.parametrize(
    ("verb", "given"),
    [pytest.param("unlearn", given, id=name) for name, given in REFUSED.items()]
    + [pytest.param("train", given, id=f"train, {name}") for name, given in TRAIN_REFUSED.items()],
)
def test_both_refuse_with_the_same_words(
    call: Callable[..., Any],
    verb: str,
    given: tuple[str, ...],
    model_folder: Path,
    data: Path,
    folder: Path,
    tmp_path: Path,
) -> None:
    dry, run = answers(call, verb, given, model_folder, data, folder, tmp_path)
    assert run.code == 2 and dry.code in (1, 2)
    assert plain(run.err).removeprefix("error: ") in plain(dry.out + dry.err)
    assert "No problem found" not in dry.out
    assert not (tmp_path / "run").exists()  # the run has written nothing either


LOCALIZE_REFUSED = {
    "quantized weights": ("bits=8",),
    "more units than there are": ("count=999999999",),
    "more units than a matrix has": ("count=9999", "scope=per_matrix"),
    "unknown attribution": ("attribution=wagel",),
    "two ways to select": ("ratio=0.1", "count=3"),
}


@pytest.mark.parametrize("given", LOCALIZE_REFUSED.values(), ids=LOCALIZE_REFUSED)
def test_localize_refuses_with_the_same_words(
    call: Callable[..., Any], given: tuple[str, ...], model_folder: Path, data: Path, tmp_path: Path
) -> None:
    words = ("localize", f"model={model_folder}", f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl")
    words = (*words, f"output={tmp_path}/mask.safetensors", *given)
    dry, run = call(*words, "--dry-run"), call(*words)
    assert run.code == 2 and dry.code in (1, 2)
    assert plain(run.err).removeprefix("error: ") in plain(dry.out + dry.err)
    assert "No problem found" not in dry.out and not (tmp_path / "mask.safetensors").exists()


@pytest.mark.parametrize("given", ALLOWED.values(), ids=ALLOWED)
def test_both_let_it_pass(
    call: Callable[..., Any], given: tuple[str, ...], model_folder: Path, data: Path, folder: Path, tmp_path: Path
) -> None:
    dry, run = answers(call, "unlearn", given, model_folder, data, folder, tmp_path)
    assert dry.code == 0, dry.out + dry.err
    assert run.code == 0, run.out + run.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("packing=on",),
            "rows are packed: on the cpu attention is computed row by row, if a trial with two rows goes well",
        ),
        ((), "rows of like length are padded together: on the cpu packing saves little time and takes more memory"),
        (("packing=off",), "rows of like length are padded together: packing=off"),
        (("attention=eager",), "rows of like length are padded together: eager attention on cpu"),
    ],
)
def test_a_dry_run_says_whether_rows_are_packed(
    call: Callable[..., Any], given: tuple[str, ...], said: str, model_folder: Path, data: Path, tmp_path: Path
) -> None:
    words = ("unlearn", f"model={model_folder}", f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl")
    dry = call(*words, f"output={tmp_path}/run", "device=cpu", *given, "--dry-run")
    assert dry.code == 0 and said in plain(dry.out)


def test_a_bound_without_a_value_is_refused_by_both(
    call: Callable[..., Any], model_folder: Path, data: Path, folder: Path, tmp_path: Path
) -> None:
    dry, run = answers(call, "unlearn", ("method=pdu",), model_folder, data, folder, tmp_path)
    assert dry.code == 1 and "eps, which has no default" in plain(dry.out)
    assert run.code == 2 and "nats a token here" in plain(run.err)  # only the run has the weights to say how many


def test_own_rows_beside_tofus_are_read(call, model_folder, data, tmp_path):
    row = '{"question": "Who?", "answer": "He."}\n'
    (tmp_path / "tofu").mkdir()
    for name in ("forget10", "retain90"):
        (tmp_path / "tofu" / f"{name}.json").write_text(row.replace("Who", name))
    own = (f"retain={data}/retain.jsonl", f"sets.general={data}/forget.jsonl", "retain_sets.general=1")
    words = (f"model={model_folder}", "source=tofu", f"path={tmp_path}/tofu", *own, f"output={tmp_path}/run")
    code, out, err = call("unlearn", *words, "method=npo", "--dry-run")
    assert code == 0, out + err
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert (rows["forget"][0], rows["general"][0]) == ("1", "6")


def test_a_dry_run_speaks_before_it_loads_and_reads(call: Callable[..., Any]) -> None:
    words = ("model=nowhere", "no_such_setting=1")
    for verb in ("unlearn", "evaluate", "localize"):
        code, _, err = call(verb, *words, "--dry-run")
        first, second, *_ = err.splitlines()
        assert code == 2 and first == DRY_RUN and "no_such_setting" in second
    assert DRY_RUN not in call("unlearn", *words).err
