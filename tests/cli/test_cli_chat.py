"""`expunge chat`: through pipes, at a terminal, side by side at any width, and what goes wrong."""

import io
import math
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import zoo
from expunge.chat.chat import Answer, Exchange
from expunge.cli.verbs._chat_view import CUT, SideBySide, columns_that_fit, show_lines, summary
from expunge.models.load import save_model

if sys.platform != "win32":
    import pty

FACT = zoo.corpus()["forget"][1]
CONTROLS = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x200F, 0x061C)} - {"\n"}


@pytest.fixture
def talk(call, monkeypatch):
    """Call `expunge chat` with lines on its standard input."""

    def talked(lines: str, *words: object):
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        return call("chat", *words)

    return talked


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(zoo.tiny_model("gpt2", seed=3), zoo.tokenizer(), tmp_path_factory.mktemp("other"))


def sets(data: Path) -> list[str]:
    return [f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl"]


class TestThroughAPipe:
    def test_a_line_is_a_prompt(self, talk, model_folder, other_folder, data) -> None:
        asked = f"{FACT.prompt}\n\nWho else?\n"
        code, out, err = talk(asked, model_folder, f"beside={other_folder}", *sets(data), "max_new_tokens=5")
        known, unknown = (part.splitlines() for part in out.strip().split("\n\n"))
        assert code == 0 and "error" not in err
        assert known[:2] == [f"> {FACT.prompt}", f"known answer (forget): {FACT.completion}"]
        assert known[2].split() == ["model", "p", "answer"]
        names = [folder.name for folder in (model_folder, other_folder)]
        assert [line.split()[0] for line in known[3:]] == names == [line.split()[0] for line in unknown[2:]]
        assert all(0 < float(line.split()[1]) < 0.1 for line in known[3:])
        assert unknown[0] == "> Who else?" and unknown[1].split() == ["model", "answer"]

    def test_commands_ask_the_last_prompt_again(self, talk, model_folder, data) -> None:
        lines = (
            f"{FACT.prompt}\n/sample 3\n/sample 3\n/prefill In the town\n/attack\n/attack list\n/help\n//x\n/quit\nno\n"
        )
        code, out, err = talk(lines, model_folder, *sets(data), "max_new_tokens=5")
        assert code == 0 and "error" not in err
        asked, drawn, more, begun, forms, form, told, slash = out.strip().split("\n\n")
        assert all(f"> {FACT.prompt}" in part for part in (asked, drawn, more, begun, forms, form))
        assert [line.split()[:2] for line in drawn.splitlines()[3:]] == [["sample", str(i)] for i in (1, 2, 3)]
        assert drawn != more  # other answers
        assert "answers begin with: In the town\n" in begun and begun.splitlines()[-1].split("  ")[-1].startswith("In")
        assert len(forms.splitlines()) > 13 > len(form.splitlines())
        worst = forms.splitlines()[4].split()[0]
        assert forms.splitlines()[-1].endswith(f"otherwise ({worst})")
        assert "Ctrl-C" in told and slash.startswith("> /x\n") and "> no" not in out

    def test_what_goes_wrong_with_a_line_ends_nothing(self, talk, model_folder) -> None:
        lines = "/sample\n/prefill\n/foo\nWho?\n/sample many\n/prefill\n/attack nop\n" + "Who? " * 300 + "\nAnd?\n"
        code, out, err = talk(lines, model_folder, "max_new_tokens=2")
        assert code == 2 and out.startswith("> Who?\n") and "> And?\n" in out
        for said in (
            "nothing was asked yet",
            "/prefill takes the text",
            "no command is called '/foo'",
            "/sample takes a number of answers, as /sample 8; got 'many'",
            "no form of prompts is called 'nop'",
            "its prompt alone has",
        ):
            assert f"error: {said}" in err or said in err

    def test_one_prompt(self, talk, model_folder) -> None:
        code, out, _ = talk("not read\n", model_folder, "prompt=/Who?", "max_new_tokens=2")
        assert code == 0 and out.splitlines()[0] == "> /Who?" and len(out.splitlines()) == 3
        assert talk("", model_folder, "prompt= ").code == 2

    def test_as_a_user_would(self, model_folder, data) -> None:
        words = [sys.executable, "-m", "expunge", "chat", str(model_folder), *sets(data), "max_new_tokens=40"]
        lines = b"Who \xff\x1b[31m is \xe2\x80\xae that?\n\n" + FACT.prompt.encode() + b"\r\n/sample 4\n"
        done = subprocess.run(words, input=lines, capture_output=True, timeout=300)
        out = done.stdout.decode()
        assert done.returncode == 0 and not CONTROLS & set(out)
        assert "> Who \ufffd␛[31m is ⟨U+202E⟩ that?\n" in out and "known answer (forget)" in out
        assert b"Known questions" not in done.stdout and b"/help" not in done.stdout  # which are for a terminal


class TestModels:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "name a model: expunge chat runs/npo"),
            (["{model}", "beside=./nowhere"], "no model folder at './nowhere'"),
            (["{model}", "beside=start"], "does not say where its start model is"),
            (["{model}", "beside={model}"], "named more than once"),
            (["{model}", "max_new_tokens=0"], "max_new_tokens must be at least 1"),
            (["{model}", "temperature=0"], "temperature must be above 0"),
            (["{model}", "template=chat", "prompt=Who?"], "needs a chat template, and this tokenizer has none"),
            (["model={model}"], "Name the model without a key: expunge chat runs/npo"),
        ],
    )
    def test_wrong_words(self, talk, model_folder, tmp_path, monkeypatch, words, said) -> None:
        monkeypatch.chdir(tmp_path)
        code, out, err = talk("", *[word.format(model=model_folder) for word in words])
        assert code == 2 and out == "" and said in err

    def test_a_run_names_its_start_model_and_its_questions(self, talk, call, model_folder, data, tmp_path) -> None:
        run, learn = tmp_path / "run", ["epochs=1", "batch_size=6", "learning_rate=1e-3"]
        assert call("unlearn", f"model={model_folder}", *sets(data), "method=npo", *learn, f"output={run}").code == 0
        code, out, err = talk(FACT.prompt, run, "beside=start", "max_new_tokens=2")
        assert code == 0 and "known answer (forget)" in out and "weights are others" not in err
        assert [line.split()[0] for line in out.splitlines()[3:5]] == ["run", "start"]

        manifest = run / "manifest.json"
        text = manifest.read_text()
        manifest.write_text(text.replace(f"{data}/forget.jsonl", f"{data}/gone.jsonl"))
        code, out, err = talk(FACT.prompt, run, "max_new_tokens=2")
        assert code == 0 and "known answer" not in out and "cannot be read again, so no answer is known" in err
        manifest.write_text(text.replace(str(model_folder), str(run)))  # a folder with other weights
        assert "is not the start model that" in talk("", run, "beside=start").err
        manifest.write_text(text.replace('"finished": true', '"finished": false'))
        for file in ("config.json", "model.safetensors"):
            (run / file).unlink()
        assert "is an unfinished run, which holds no model" in talk("", run).err

    def test_a_run_names_the_retain_model_that_it_was_evaluated_against(
        self, talk, call, model_folder, other_folder, data, tmp_path
    ) -> None:
        run, learn = tmp_path / "run", ["epochs=1", "batch_size=6", "learning_rate=1e-3"]
        assert call("unlearn", f"model={model_folder}", *sets(data), "method=npo", *learn, f"output={run}").code == 0
        told = talk("", run, "beside=retain").err
        assert "does not say where its retain model is: it was not evaluated against" in told
        output = f"output={other_folder}-records"
        assert call("evaluate", f"model={other_folder}", *sets(data), output).code == 0
        assert call("evaluate", f"model={run}", *sets(data), f"reference={other_folder}-records").code == 0
        code, out, err = talk("Who?", run, "beside=retain,start", "max_new_tokens=5")
        assert code == 0 and "weights are others" not in err
        assert [line.split()[0] for line in out.splitlines()[2:5]] == ["run", "retain", "start"]
        theirs = talk("Who?", other_folder, "max_new_tokens=5").out.splitlines()[2].split(maxsplit=1)[1]
        assert theirs in out.splitlines()[3]

    def test_an_adapter_stands_on_its_start_model(self, talk, call, model_folder, data, tmp_path) -> None:
        run, learn = tmp_path / "lora", ["adapter=lora", "rank=2", "epochs=1", "batch_size=6", "learning_rate=1e-3"]
        assert call("unlearn", f"model={model_folder}", *sets(data), "method=npo", *learn, f"output={run}").code == 0
        code, out, err = talk(FACT.prompt, run, "beside=start", "max_new_tokens=2")
        assert code == 0 and out.count("In the town") == 1 and "weights are others" not in err
        assert [line.split()[0] for line in out.splitlines()[3:5]] == ["lora", "start"]


def exchange(models: int, ways: int = 1, known: str | None = "In the town.") -> Exchange:
    text = "First line.\n\nA second one \x1b[2J\u202e with [bold]markup[/bold]" + " and more words" * 20
    names = ("npo", "start", "retain", "other")[:models]
    answers = tuple(Answer(text, 0.01 / (i + 1) if known else None, ended=i % 2 == 0) for i in range(ways))
    titles = ("",) if ways == 1 else ("as asked", *(f"form{i}" for i in range(1, ways)))
    return Exchange("Who?", titles, tuple("Who then?" for _ in titles), dict.fromkeys(names, answers), known, "forget")


class TestSideBySide:
    @pytest.mark.parametrize(
        ("models", "width", "across"),
        [(1, 80, 1), (2, 80, 2), (3, 80, 3), (4, 80, 2), (2, 40, 1), (3, 52, 2), (4, 160, 4), (2, 10, 1)],
    )
    def test_columns(self, models: int, width: int, across: int) -> None:
        assert columns_that_fit(models, width) == across
        for ways in (1, 3):
            console = Console(width=width, file=io.StringIO())
            console.print(SideBySide(exchange(models, ways), brief=ways > 1))
            lines = console.file.getvalue().splitlines()
            assert max(map(len, lines)) <= width
            drawn = "\n".join(lines)
            assert not CONTROLS & set(drawn)
            if width >= 40:
                assert sum("npo" in line and ("start" in line) == (across > 1) for line in lines if "p = " in line) == (
                    ways if models > 1 else 0 if across > 1 else ways
                )
                assert drawn.count("[bold]") == models * ways

    def test_a_brief_answer_is_cut_and_a_whole_one_is_not(self) -> None:
        for brief in (True, False):
            console = Console(width=60, file=io.StringIO())
            console.print(SideBySide(exchange(1), brief=brief))
            drawn = console.file.getvalue()
            assert ("…" in drawn) == brief and (drawn.count("more") == 20) == (not brief)

    def test_without_a_terminal_answers_in_many_forms_are_cut_and_the_way_to_all_is_told(self, capsys) -> None:
        show_lines(exchange(2, 3), brief=True)
        *rows, told = capsys.readouterr().out.splitlines()[3:]
        assert len(rows) == 6 and all(len(line.split(maxsplit=3)[3]) == CUT and line.endswith("…") for line in
            [row.replace("as asked", "asked") for row in rows])  # fmt: skip
        assert told == f"Answers are cut after {CUT} characters. One form in full: /attack form1"
        short = replace(exchange(1, 2), answers={"npo": (Answer("No.", 0.1, ended=True),) * 2})
        show_lines(short, brief=True)
        assert capsys.readouterr().out.splitlines()[-1].endswith("No.")

    def test_unended_answers_go_on(self, capsys) -> None:
        show_lines(exchange(1, 2, known=None))
        first, second = capsys.readouterr().out.splitlines()[2:]
        assert not first.endswith("…") and second.endswith("words…") and "First line. A second one" in first

    def test_the_summary_names_the_worst_form(self) -> None:
        assert summary(exchange(2, 3)) == (
            "npo: p of the known answer is 0.01 as asked, at most 0.005 otherwise (form1)"
        )
        assert summary(exchange(2, 3, known=None)) == "" == summary(exchange(2))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_at_a_terminal(tmp_path: Path, model_folder: Path) -> None:
    """Ctrl-C stops an answer, Ctrl-D ends; a long answer streams before it has ended."""
    slow = save_model(zoo.tiny_model(max_position_embeddings=10**6), zoo.tokenizer(), tmp_path / "slow")
    words = ["-m", "expunge", "chat", str(slow), f"beside={model_folder}", "max_new_tokens=100000"]
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it, and hand that on
        os.execve(sys.executable, [sys.executable, *words], {**os.environ, "TERM": "xterm", "COLUMNS": "80"})
    unread = ""

    def until(sign: str, *, pressing: bytes = b"", seconds: float = 100) -> str:
        """Read up to a text, and through it; press a key until it comes, since one may come before it is read."""
        nonlocal unread
        end, pressed = time.monotonic() + seconds, -math.inf
        while sign not in unread:
            assert time.monotonic() < end, f"no {sign!r} in {unread!r}"
            if pressing and time.monotonic() > pressed + 3:
                os.write(terminal, pressing)
                pressed = time.monotonic()
            if select.select([terminal], [], [], 1)[0]:
                unread += os.read(terminal, 4096).decode(errors="replace")
        before, _, unread = unread.partition(sign)
        return before

    try:
        said = until("/help lists the commands, Ctrl-D ends.")
        assert "No data" in said and "slow" in said
        until("> ")
        until("/quit or Ctrl-D ends.", pressing=b"\x03")
        until("> ")
        os.write(terminal, b"Who?\n")
        until("slow")
        until("…")
        until("stopped", pressing=b"\x03")
        until("> ")
        os.write(terminal, b"/nop\n")
        until("no command is called '/nop'")
        until("> ")
        os.write(terminal, b"\x04")
        end = time.monotonic() + 60
        while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
            assert time.monotonic() < end
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    os.read(terminal, 4096)
                except OSError:
                    pass  # the other end has closed
        assert os.waitstatus_to_exitcode(ended[1]) == 0
        pid = 0
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(terminal)
