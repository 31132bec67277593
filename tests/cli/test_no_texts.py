"""What a run folder that is handed on holds: nothing of what was to be forgotten."""

import json
from pathlib import Path

import pytest

import expunge
import zoo
from expunge.cli import main


def texts(data: Path) -> list[str]:
    rows = [json.loads(line) for line in (data / "forget.jsonl").read_text().splitlines()]
    return [text for row in rows for text in (row["question"], row["answer"])]


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def found(folder: Path, wanted: list[str]) -> list[tuple[str, str]]:
    """(file, text) of every text that stands in a file as UTF-8, as UTF-16 or escaped as in JSON."""
    forms = [(text, {text.encode(), text.encode("utf-16-le"), json.dumps(text)[1:-1].encode()}) for text in wanted]
    return [
        (name, text) for name, content in held(folder).items() for text, of in forms if any(f in content for f in of)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = {
        split: [{"question": e.prompt, "answer": e.completion} for e in zoo.corpus()[split]] for split in zoo.corpus()
    }
    for split, of in rows.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of))
    return tmp_path


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0


def test_the_search_finds_what_is_there(tmp_path: Path, data: Path) -> None:
    assert len(found(data, texts(data))) == 12


METHODS: dict[str, tuple[str, ...]] = {
    "npo, its checkpoints kept": ("method=npo", "keep_checkpoints=0", "checkpoint_every=0.5"),
    "altpo, which makes up answers": ("method=altpo", "alternates=1"),
    "dpo, which draws refusals": ("method=dpo",),
    "an adapter": ("method=npo", "adapter=lora", "rank=2"),
    "watched by a measure": ("method=grad_ascent", "stop=forget_rouge<=0.001", "stop_every=0.5"),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", METHODS.values(), ids=METHODS)
def test_a_run_folder_holds_no_text_of_the_forget_set(
    model_folder: Path, data: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    sets = (f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl")
    out = tmp_path / "run"
    run("unlearn", f"model={model_folder}", *sets, *how, "epochs=1", "batch_size=3", f"output={out}")
    assert (out / "manifest.json").is_file() and not found(out, texts(data))
    run("evaluate", f"model={out}", *sets, "metrics=forget_rouge,retain_rouge")
    run("report", out, f"output={out}/report.html", "texts=drop")
    assert not found(out, texts(data))
    assert found(tmp_path / "run-records", texts(data))  # next to it, for whoever measured


def test_what_training_and_localization_write_holds_none_either(model_folder: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(
        "train",
        f"model={model_folder}",
        f"data={data}/forget.jsonl",
        "epochs=1",
        "batch_size=3",
        f"output={out}/target",
    )
    sets = (f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl")
    named = (f"output={out}/mask.safetensors", f"scores={out}/scores.safetensors")
    run("localize", f"model={model_folder}", *sets, "attribution=wagle", "ratio=0.1", *named)
    assert {"manifest.json", "mask.safetensors", "scores.safetensors"} <= {Path(name).name for name in held(out)}
    assert not found(out, texts(data))


def test_what_the_object_writes_holds_none(model_folder: Path, data: Path, tmp_path: Path) -> None:
    unlearner = expunge.Unlearning("grad_diff", model_folder, output_dir=tmp_path / "out", device="cpu")
    unlearner.load_data(data / "forget.jsonl", data / "retain.jsonl")
    unlearner.run(batch_size=3, num_epochs=1)
    unlearner.save_model(tmp_path / "out" / "final")
    assert held(tmp_path / "out") and not found(tmp_path / "out", texts(data))
