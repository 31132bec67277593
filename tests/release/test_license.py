import json
from pathlib import Path

import pytest

from expunge.release.license import license_of


def test_the_card_goes_first_then_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert license_of(str(tmp_path)) is None and license_of("user/none") is None
    (tmp_path / "config.json").write_text(json.dumps({"license": "mit"}))
    assert license_of(str(tmp_path)) == "mit"
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# start\n")
    assert license_of(str(tmp_path)) == "apache-2.0"
    monkeypatch.chdir(tmp_path)
    assert license_of("") is None  # which is no name of the folder that one happens to be in
    (tmp_path / "README.md").write_text("# a card without a head\n")
    assert license_of(str(tmp_path)) == "mit"
