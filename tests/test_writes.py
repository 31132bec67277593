"""Every file that a reader may find is written aside and renamed, so that a full disk or a kill leaves no half file."""

import re
from pathlib import Path

import pytest

import expunge
from expunge.report.html import report
from expunge.results.measures import Evaluation, Measure

SOURCE = Path(expunge.__file__).parent
WRITES = re.compile(r"\.(write_text|write_bytes|savefig|save_file|write_table)\(|open\(\"[wx]|\bsave_file\(")
ASIDE = re.compile(r"aside|buffer")
NOT_READ_BACK = {
    "cli/app.py",  # the null device
    "training/run.py",  # history of a run, before its manifest says that it is finished
    "training/tracking.py",  # the name of a run at a tracker
}


def test_nothing_is_written_under_its_final_name() -> None:
    found = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        for line in path.read_text().splitlines()
        if WRITES.search(line) and not ASIDE.search(line) and str(path.relative_to(SOURCE)) not in NOT_READ_BACK
    ]
    assert not found


def test_a_full_disk_leaves_no_half_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Evaluation({"rouge": Measure(value=0.5, better="lower", n=3, definition="d", source="s")})
    page = report(found, tmp_path / "report.html")
    before = page.read_bytes()

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for write in (
        lambda: report(found, tmp_path / "new.html"),
        lambda: report(found, page, title="another", overwrite=True),
        lambda: found.save(tmp_path / "evaluation.json"),
    ):
        with pytest.raises(OSError, match="No space"):
            write()
    assert page.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["report.html"]
