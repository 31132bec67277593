"""Every command and snippet in README and docs runs, in a folder like a user's; the methods page is up to date."""

import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import presets_playground
import zoo
from expunge.cli import main
from expunge.core.catalogue import KINDS, resolve

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LONG = (
    *(
        "adapters.md",
        "attacks.md",
        "chat.md",
        "compare.md",
        "distributed.md",
        "evaluation.md",
        "guide.md",
        "migration.md",
    ),
    *("record.md", "report.md", "sweep.md"),
)
"""Pages whose commands take more than ten seconds."""


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    yield from re.findall(r"^```(bash|python)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: model folders, data files of each form, a folder like TOFU's."""
    folder = tmp_path_factory.mktemp("user")
    tokenizer = zoo.tokenizer()
    llamas = ("my-model", "my-start-model", "my-retain-model")
    for name, architecture in (*((name, "llama") for name in llamas), ("gpt2", "gpt2")):
        wide = {"num_key_value_heads": 4} if architecture == "llama" else {}  # for adapters of the published rank 32
        zoo.tiny_model(architecture, seed=len(name), **wide).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    corpus = zoo.corpus()
    for split in ("forget", "retain"):
        rows = [{"question": e.prompt, "answer": e.completion} for e in corpus[split]]
        (folder / f"{split}.json").write_text(json.dumps(rows))
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    holdout = [{"question": f"Where does Celdo number {i} live?", "answer": f"In Celdo{i}."} for i in range(5)]
    (folder / "holdout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in holdout))
    for split, name in (("forget", "facts.csv"), ("retain", "keep.csv")):
        lines = [f"{e.prompt},{e.completion}" for e in corpus[split]]
        (folder / name).write_text("q,a\n" + "\n".join(lines) + "\n")
    presets_playground.write_tofu(folder / "tofu", n_retain=400)  # as many as published settings draw
    return folder


def words(line: str) -> list[str]:
    """A command's words, with file patterns filled in as a shell does."""
    filled = [sorted(map(str, Path().glob(word))) if "*" in word else [word] for word in shlex.split(line)]
    return [word for found in filled for word in found]


def run(language: str, text: str, capfd: pytest.CaptureFixture) -> None:
    """Run a block in this process: most of a command's time would go into importing the same libraries anew."""
    if language == "python" and (name := re.match(r"# (\w+\.py)\n", text)):
        Path(name[1]).write_text(text)  # a file that the page has the reader make
        return
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        if language == "python":
            exec(compile(text, "<page>", "exec"), {"__name__": "__page__"})
            return
        lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
        if not all(line.startswith("expunge ") for line in lines):
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
            command = ["bash", "-euo", "pipefail", "-c", text]
            done = subprocess.run(
                command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, f"{text}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
            return
        for line in lines:
            with pytest.raises(SystemExit) as ended:
                main(words(line)[1:])
            shown = capfd.readouterr()
            assert not ended.value.code, f"{line}\n--- stdout\n{shown.out}\n--- stderr\n{shown.err}"


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.name, marks=[pytest.mark.slow] if p.name in LONG else []) for p in PAGES]
)
def test_pages_run(
    page: Path, playground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "here"
    shutil.copytree(playground, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for language, text in blocks(page):
        kept = [
            line for line in text.splitlines() if not line.startswith(("make ", "pip "))
        ]  # the Makefile runs this very test
        if any("expunge demo" in line for line in kept):
            continue  # test_the_demo, which takes minutes
        if "form=gguf" in text and not importlib.util.find_spec("gguf"):
            continue  # needs the extra `gguf`
        if "key=controller" in text and not importlib.util.find_spec("cryptography"):
            continue  # needs the extra `record`
        run(language, "\n".join(kept), capfd)


def test_what_the_page_on_extending_makes_is_listed_once_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    page = (ROOT / "docs/extending.md").read_text()
    for language, text in blocks(ROOT / "docs/extending.md"):
        if language == "python" and (name := re.match(r"# (\w+\.py)\n", text)):
            (tmp_path / name[1]).write_text(text)
            assert len(text.splitlines()) <= 40
    groups = re.findall(r"^\[project.entry-points.\"(.*)\"\]\n(\w+) = \"(.*)\"", page, re.MULTILINE)
    assert len(groups) == 5
    info = tmp_path / "examples-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: examples\nVersion: 1.0\n")
    points = "".join(f"[{group}]\n{name} = {value}\n" for group, name, value in groups)
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    for kind, entry in KINDS.items():
        for group, name, value in groups:
            if group == entry.group:
                with pytest.raises(SystemExit):
                    main(["list", kind])
                assert re.search(f"^{name} +from {value}$", capfd.readouterr().out, re.MULTILINE)
                assert resolve(kind, name).__name__ == name


def test_the_first_command_stands_near_the_top() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert next(i for i, line in enumerate(lines) if line.startswith("```bash")) < 29


def test_the_methods_page_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs/make_methods.py"))["page"]()
    assert (ROOT / "docs/methods.md").read_text() == made, "run: python docs/make_methods.py"


def test_pages_hold_something_to_run() -> None:
    assert sum(1 for page in PAGES for _ in blocks(page)) >= 5
