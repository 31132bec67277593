import json
from pathlib import Path

from expunge.release.license import license_of


def test_the_card_goes_first_then_the_configuration(tmp_path: Path) -> None:
    assert license_of(str(tmp_path)) is None and license_of("user/none") is None and license_of("") is None
    (tmp_path / "config.json").write_text(json.dumps({"license": "mit"}))
    assert license_of(str(tmp_path)) == "mit"
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# start\n")
    assert license_of(str(tmp_path)) == "apache-2.0"
    (tmp_path / "README.md").write_text("# a card without a head\n")
    assert license_of(str(tmp_path)) == "mit"
