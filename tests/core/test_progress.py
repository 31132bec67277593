"""Progress where there is no terminal: plain lines with the time that is left."""

import sys

import pytest

from expunge.core import progress


class TestProgress:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [0.0]
        monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
        return now

    def test_first_and_last_and_one_now_and_then(self, clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
        with progress.shown() as report:
            for step in range(1, 31):
                report("npo", step, 30, f"loss {step}")
                clock[0] += 1
        # A line at step 1, then no sooner than 10 s later: after 10 steps of 1 s, 20 are left.
        assert capsys.readouterr().err.splitlines() == [
            "npo  1/30  loss 1",
            "npo  11/30  19 s left  loss 11",
            "npo  21/30  9 s left  loss 21",
            "npo  30/30  loss 30",
        ]

    def test_pieces_of_work_are_told_apart(self, clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
        with progress.shown() as report:
            report("reference values", 32, 40, "")
            report("npo", 1, 2, "")
        assert capsys.readouterr().err == "reference values  32/40\nnpo  1/2\n"

    def test_work_that_begins_again_has_a_time_of_its_own(
        self, clock: list[float], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with progress.shown() as report:
            for step in (1, 2):
                report("npo", step, 2, "")
            clock[0] = 1000.0
            for step in (1, 21):
                report("npo", step, 41, "")
                clock[0] += 20
        # 20 steps took 20 s, so the other 20 will; not the 1020 s since another run of that name began.
        assert capsys.readouterr().err.splitlines()[-2:] == ["npo  1/41", "npo  21/41  20 s left"]

    def test_on_a_terminal_there_is_a_bar(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        with progress.shown() as report:
            report("npo", 1, 2, "loss [3]")
            report("npo", 2, 2, "loss [4]")
        said = capsys.readouterr().err
        assert "npo" in said and "2/2" in said and "loss [4]" in said

    def test_what_is_finished_on_a_terminal_leaves_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        with progress.shown() as report:
            for number in range(50):
                report(f"piece {number}", 1, 1, "")
            report("npo", 1, 2, "")
        said = capsys.readouterr().err
        assert all(said.count(f"piece {number}  1/1") == 1 for number in range(50))
        assert "piece" not in said.split("npo")[-1]  # the last picture holds what goes on alone


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (7325, "2 h 2 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert progress._duration(seconds) == text
