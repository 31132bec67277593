"""Localizes, evaluates and attacks in a process group; started by test_ranks."""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from stage_cases import ATTACKS, COMMANDS, EVALUATED, LOCALIZED, SETTINGS, attacked_model, corpus, model_of
from torch.distributed.tensor import DTensor

import expunge
import zoo
from expunge.cli import main
from expunge.core.distributed import join
from expunge.localize import gradients
from expunge.models.load import load_model


def localized(folder: Path) -> None:
    computed, plain = [], gradients.example_losses
    gradients.example_losses = lambda m, d, numbers: (computed.append(len(numbers)), plain(m, d, numbers))[1]
    for name, how in LOCALIZED.items():
        how, sharded = dict(how), how.get("sharded", False)
        how.pop("sharded", None)
        model = load_model(folder / how.pop("dtype"), sharded=sharded)
        computed.clear()
        assert isinstance(next(model.parameters()), DTensor) == sharded
        scores = expunge.localize(model, zoo.tokenizer(), corpus(), **how)
        save_file(scores.values, folder / f"{name} {RANK}.safetensors")
        (folder / f"{name} {RANK} rows").write_text(str(sum(computed)))


def evaluated(folder: Path) -> None:
    model = model_of("float32")
    found = expunge.evaluate(model, zoo.tokenizer(), corpus(), **EVALUATED, output_dir=folder / "evaluated")
    assert (folder / "evaluated" / "evaluation.json").is_file()  # also where the first process wrote it
    (folder / f"numbers {RANK}").write_text(json.dumps(found.numbers()))
    again = expunge.evaluate(model, zoo.tokenizer(), corpus(), **EVALUATED, output_dir=folder / "evaluated")
    assert again.numbers() == found.numbers()
    sharded = load_model(folder / "float32", sharded=True)
    found = expunge.evaluate(sharded, zoo.tokenizer(), corpus(), metrics=["forget_probability", "forget_rouge"])
    (folder / f"sharded {RANK}").write_text(json.dumps(found.numbers()))


def attacked(folder: Path) -> None:
    settings = {name: {k: str(folder / v) if k == "start" else v for k, v in own.items()} for name, own in SETTINGS}
    found = expunge.attack(
        attacked_model(), zoo.tokenizer(), corpus(), attacks=ATTACKS, settings=settings, output_dir=folder / "attacked"
    )
    (folder / f"leaks {RANK}").write_text(json.dumps([list(c.leak.values) for c in found.columns if c.leak]))
    try:
        expunge.attack(load_model(folder / "float32", sharded=True), zoo.tokenizer(), corpus(), attacks=["prune"])
    except expunge.ExpungeError as error:
        assert "divided among processes" in str(error)
    else:
        raise AssertionError("a sharded model was attacked")


def commanded(folder: Path) -> None:
    os.chdir(folder)
    for words in COMMANDS:
        try:
            main(words)
        except SystemExit as end:
            assert end.code == 0, words


warnings.simplefilter("ignore")
torch.set_num_threads(1)
join()
RANK = torch.distributed.get_rank()
FOLDER = Path(sys.argv[1])
for stage in (localized, evaluated, attacked, commanded):
    stage(FOLDER)
