"""Nothing heavy is loaded before it is needed: what these commands import is read in a process of its own."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "datasets", "pyarrow", "matplotlib", "scipy", "sklearn", "peft", "accelerate"}

_CALL = """
import contextlib, io, json, sys
with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
    {code}
print(json.dumps([sorted({{name.partition(".")[0] for name in sys.modules}}), said.getvalue()]))
"""


def run(code: str) -> tuple[set[str], str]:
    """Top-level packages that code has loaded, and what it said."""
    command = [sys.executable, "-c", _CALL.format(code=code)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    loaded, said = json.loads(found.stdout.splitlines()[-1])
    return set(loaded), said


def main(*words: str) -> str:
    return f"from expunge.cli import main; main({list(words)!r})"


@pytest.mark.parametrize(
    ("code", "sign"),
    [
        ("import expunge; print(expunge.__version__)", "0."),
        (main("--help"), "unlearn"),
        (main("unlearn", "--help"), "learning_rate"),
        (main("evaluate", "--help"), "reference"),
        (main("report", "--help"), "title"),
        (main("chat", "--help"), "beside"),
        (main("localize", "--help"), "attribution"),
        (main("mask", "info", "--help"), "region"),
        (main("experiment", "--help"), "sustainability"),
        (main("record", "--help"), "predecessor"),
        (main("sweep", "--help"), "constraint"),
        (main("verify", "--help"), "salt"),
        (main("export", "--help"), "gguf"),
        (main("list", "attributions"), "wagle"),
        (main("list", "methods"), "npo"),
        (main("list", "metrics", "suites", "sources", "retain_losses", "experiments"), "rouge"),
        (main("list", "presets"), "tofu/llama-2-7b"),
    ],
)
def test_nothing_heavy_is_loaded(code: str, sign: str) -> None:
    loaded, said = run(code)
    assert sign in said  # it did what it should
    assert "expunge" in loaded and not loaded & HEAVY


def test_a_mistake_on_the_command_line_is_told_without_loading_anything_heavy() -> None:
    # A missing model must not cost the seconds that torch takes.
    loaded, _ = run(main("unlearn", "forget=f.jsonl"))
    assert "expunge" in loaded and not loaded & HEAVY


def test_the_reader_can_fail() -> None:
    loaded, _ = run("import expunge.core.logprobs")
    assert "torch" in loaded & HEAVY
