"""What a dry run estimates."""

from pathlib import Path

import pytest

from expunge.cli.preview import Problems, in_units, marked_text, skeleton
from expunge.core.checks import ExpungeError
from expunge.models.load import load_model


def test_a_skeleton_has_shapes_and_no_weights(model_folder: Path, tmp_path: Path) -> None:
    found, real = skeleton(str(model_folder), trust_remote_code=False), load_model(model_folder)
    shapes = {name: (p.shape, p.dtype) for name, p in real.named_parameters()}
    assert {name: (p.shape, p.dtype) for name, p in found.named_parameters()} == shapes
    assert all(p.is_meta for p in found.parameters())
    with pytest.raises(ExpungeError, match="no model folder"):
        skeleton(str(tmp_path / "nowhere"), trust_remote_code=False)


def test_marks_stand_around_what_is_supervised_and_nothing_is_invisible() -> None:
    pieces = [("<bos>", False), ("Q:\tx\n", False), ("A", False), (" In", True), ("\n", True), ("\x1b[0m", True)]
    assert marked_text(pieces) == "<bos>Q:\\tx\\n\nA« In»«\\n»\n«␛[0m»"


def test_problems_are_collected_and_bugs_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    problems = Problems()
    assert problems.concluded() == 0 and "No problem found" in capsys.readouterr().out
    for text in ("first", "second"):
        with problems.collected():
            raise ExpungeError(text)
    assert problems.concluded() == 1 and "- first\n- second\n" in capsys.readouterr().out
    with pytest.raises(KeyError), problems.collected():
        raise KeyError


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0.0 MB"), (28.3e6, "28.3 MB"), (999.9e6, "999.9 MB"), (1.24e9, "1.2 GB")]
)
def test_units(amount: float, text: str) -> None:
    assert in_units(amount) == text
