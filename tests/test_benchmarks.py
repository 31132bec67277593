"""Benchmarks run from end to end on a random model, so that none goes stale; the numbers mean nothing here."""

import argparse
import json
import runpy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from expunge.attack.attack import DEFAULT
from expunge.models.load import save_model

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(FOLDER))  # `masked` and `packing` take a clock from `objectives`
    with warnings.catch_warnings():
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Folder of a model, and files of a forget and a retain set."""
    named = {"model": str(save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "model"))}
    for split in ("forget", "retain"):
        lines = [json.dumps({"question": e.prompt, "answer": e.completion}) for e in zoo.corpus()[split]]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        named[split] = str(tmp_path / f"{split}.jsonl")
    return named


def run(monkeypatch: pytest.MonkeyPatch, name: str, output: Path, **settings: object) -> dict[str, object]:
    words = [word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    monkeypatch.setattr(sys, "argv", [name, *words, "--output", str(output)])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    found: dict[str, object] = json.loads(output.read_text())
    return found


def test_quality(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, "quality", tmp_path / "out.json", **files, methods="kl_min", seeds=1)
    assert [row["settings"]["method"] for row in found["rows"]] == ["kl_min"]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_fila(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, "fila", tmp_path / "out.json", **files, rounds=1, seeds=1)
    assert {"seconds", "share_of_an_epoch", "result"} <= set(found)


def test_extraction(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"model": files["model"], "texts": files["forget"], "sequences": 1, "n": 2, "tokens": 6}
    assert run(monkeypatch, "extraction", tmp_path / "out.json", **settings)


@pytest.mark.slow
def test_evaluation(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tofu").mkdir()
    wrong = {"paraphrased_answer": "It is a town.", "perturbed_answer": ["In a boat.", "In Rome."]}
    for name, split in (("forget01_perturbed", "forget"), ("retain99", "retain"), ("retain_perturbed", "retain")):
        lines = [json.dumps({"question": e.prompt, "answer": e.completion, **wrong}) for e in zoo.corpus()[split]]
        (tmp_path / "tofu" / f"{name}.json").write_text("\n".join(lines) + "\n")
    settings = {"model": files["model"], "data": tmp_path / "tofu", "forget": "forget01", "rounds": 1}
    found = run(monkeypatch, "evaluation", tmp_path / "out.json", **settings, max_new_tokens=8)
    assert found["rounds"] and found["ratios"]


@pytest.mark.slow
def test_attacks(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = run(monkeypatch, "attacks", tmp_path / "out.json", **files, rounds=1, prompts=4)
    assert set(found["seconds_an_attack"]) == {"plain", *DEFAULT}
    assert found["generation"]["same_tokens"] == found["generation"]["prompts"] == 4
    assert all(ratio > 0 for ratio in found["ratios"].values())


@pytest.mark.slow
def test_objectives(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"methods": "npo", "rounds": 1, "steps": 2, "rows": 2}
    assert run(monkeypatch, "objectives", tmp_path / "out.json", **files, **settings)["rows"]


@pytest.mark.slow
def test_packing(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = run(monkeypatch, "packing", tmp_path / "out.json", **files, rounds=1, steps=2, rows=2, threads=1)
    assert [row["variant"] for row in found["rows"]] == ["plain fine-tuning", "padded", "packed"]
    assert all(row["time_of_padded"]["median"] > 0 and row["peak_memory_mb"] > 0 for row in found["rows"])


@pytest.mark.slow
def test_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"sizes": "20M", "rounds": 1, "steps": 2, "rows": 2}
    assert run(monkeypatch, "masked", tmp_path / "out.json", **settings)["rows"]


@pytest.mark.slow
def test_selection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "selection", tmp_path / "out.json", sizes="1e4")["rows"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["full", "masked", "lora", "fila"])
def test_memory_is_estimated_within_15_percent(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from memory import Case, compared  # a script of the benchmarks

    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent / "src"))
    torch.set_num_threads(1)
    assert compared(Case("7M", kind, 8))["ratio"] == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_gpu_at_toy_size_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"sizes": "toy", "device": "cpu", "tokens": 32, "batch": 2, "steps": 3}
    found: Any = run(monkeypatch, "gpu", tmp_path / "out.json", **settings)
    ran = [row for row in found["rows"] if "not_run" not in row]
    assert len(found["rows"]) == 9 and all(row["tokens_a_second"] > 0 for row in ran)
    refused = {row["case"] for row in found["rows"]} - {row["case"] for row in ran}
    assert refused <= {"grad_diff, compiled"}  # where there is no compiler
    late: Any = run(monkeypatch, "gpu", tmp_path / "late.json", **settings, minutes=0)
    assert all(row["not_run"] == "the time was over" for row in late["rows"])


def test_operations_of_a_gpu_benchmark_are_those_of_the_models_matrices() -> None:
    gpu = runpy.run_path(str(FOLDER / "gpu.py"))
    arguments = argparse.Namespace(device="cpu", tokens=32)
    model = gpu["made_model"]("toy", arguments)
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    full, lora = (next(case for case in gpu["CASES"] if case.name == name) for name in ("grad_diff", "grad_diff, lora"))
    assert gpu["operations"]("toy", full) == 6 * weights and gpu["operations"]("toy", lora) == 4 * weights


@pytest.mark.slow
def test_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent / "src"))
    found: Any = run(monkeypatch, "growth", tmp_path / "out.json", sizes="toy,1M")
    assert set(found["exponents"]) == {"parameters", "rows", "ratio", "rank"}
    assert all(row["peak_mb"] > 0 for row in found["rows"]) and found["exponents"]["parameters"]["seconds_a_step"] > 0


def test_an_exponent_by_hand() -> None:
    growth = runpy.run_path(str(FOLDER / "growth.py"))
    rows = [{"grows": "rows", "x": x, "seconds_a_step": 3 * x**2, "peak_mb": 5 * x**0.5} for x in (2, 8, 32)]
    assert growth["exponents"](rows) == {"rows": {"seconds_a_step": 2.0, "peak_mb": 0.5}}
    assert growth["exponents"](rows[:1]) == {}


def test_every_benchmark_has_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    everything = runpy.run_path(str(FOLDER / "__main__.py"))
    scripts = {path.stem for path in FOLDER.glob("[!_]*.py")} - {"gpu"}
    assert {words[0] for words in everything["BENCHMARKS"].values()} == scripts
    given = dict.fromkeys(("model", "retain_model", "larger", "data", "forget", "retain"), "there")
    known = dict(everything["commands"](",".join(everything["BENCHMARKS"]), given))
    for name, command in known.items():
        script = runpy.run_path(command[1])
        monkeypatch.setattr(sys, "argv", [*command[1:], "--help"])
        with pytest.raises(SystemExit) as ended:  # every flag is one of the script's
            script["main"]()
        assert ended.value.code == 0 and command[-1].endswith(f"{name}.json")
        told = capsys.readouterr().out
        assert all(word in told for word in command[2:] if word.startswith("--"))
    with pytest.raises(SystemExit, match="fila needs --model"):
        everything["commands"]("fila", {})
    with pytest.raises(SystemExit, match="no result is called 'no'"):
        everything["commands"]("no", {})
    (absent,) = everything["commands"]("growth", {})
    assert absent[0] == "growth"


def test_the_page_of_costs_has_the_numbers_of_the_results() -> None:
    made = runpy.run_path(str(FOLDER.parent / "docs" / "make_cost.py"))
    assert made["PAGE"].read_text() == made["page"](), "run: python docs/make_cost.py"
    assert all(f"<!-- {name} -->" in made["PAGE"].read_text() for name in made["TABLES"])
