"""Fixtures that all tests share."""

import gc
import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("expunge", deadline=None)  # how long an example takes depends on what else runs
settings.load_profile("expunge")

SHARED = Path(__file__).parents[1].parent / "shared"


def _folder(name: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"needs the folder {name} of test material, which lies beside a development checkout only")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data and small real models."""
    return _folder("data")


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Tiny checkpoints with expected losses, gradients and metrics."""
    return _folder("reference")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU or a network are skipped, and say why, where there is none; long ones come first.

    A page of the docs takes half a minute: begun last, it would keep one worker busy while the other has nothing left.
    """
    long = ("test_docs", "test_distributed")
    items.sort(key=lambda item: not any(name in item.nodeid for name in long))
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
        if item.get_closest_marker("network") and os.environ.get("EXPUNGE_NETWORK") != "1":
            item.add_marker(pytest.mark.skip(reason="needs a network; EXPUNGE_NETWORK=1 says that there is one"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache; all share one that lives as long as the run."""
    if "EXPUNGE_CACHE" not in os.environ:
        base = tmp_path_factory.getbasetemp()
        monkeypatch.setenv("EXPUNGE_CACHE", str(base / "cache"))


@pytest.fixture(scope="module", autouse=True)
def _imports_are_not_garbage() -> None:
    """What is loaded by now is left out of garbage collection.

    Every training run ends with a full collection in accelerate. Over all that the libraries hold it takes a third of a
    second, as long as the tiny model's training itself.
    """
    gc.collect()
    gc.freeze()
