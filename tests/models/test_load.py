"""Fingerprints, and models that cannot be loaded."""

from pathlib import Path

import pytest
import torch

import zoo
from expunge.core.checks import ExpungeError
from expunge.models.fingerprint import model_fingerprint, tokenizer_fingerprint
from expunge.models.load import check_tokenizer_fits, load_model, save_model


def test_a_fingerprint_is_of_content(tmp_path: Path) -> None:
    model = zoo.tiny_model()
    mark = model_fingerprint(model)
    for folder in ("one", "two"):
        save_model(model, zoo.tokenizer(), tmp_path / folder)
        assert model_fingerprint(load_model(tmp_path / folder)) == mark  # wherever it lies
    assert model_fingerprint(zoo.tiny_model(seed=1)) != mark
    assert model_fingerprint(zoo.tiny_model(rms_norm_eps=0.1)) != mark  # the same weights, other outputs
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-6
    assert model_fingerprint(model) != mark


def test_a_tokenizer_stays_the_same_when_it_is_used() -> None:
    tokenizer = zoo.tokenizer()
    mark = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(tokenizer) == mark


def test_a_model_folder_of_nearly_that_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "my-modal").mkdir()  # nearer, and no model
    save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "my-model")
    with pytest.raises(ExpungeError, match=r"no model folder at .*my-modle'. Did you mean '.*/my-model'\?"):
        load_model(tmp_path / "my-modle")
    with pytest.raises(ExpungeError, match=r"no model folder at '.*another'\.$"):
        load_model(tmp_path / "another")


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match="no model folder at"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ExpungeError, match=r"no config\.json.*nothing"):
        load_model(tmp_path)
    save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ExpungeError, match=r"no weights: no \*\.safetensors"):
        load_model(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ExpungeError, match="pickled weights can run code"):
        load_model(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ExpungeError, match="is a file"):
        load_model(tmp_path / "file")


def test_a_tokenizer_much_smaller_than_the_model_is_remarked_on() -> None:
    with pytest.warns(UserWarning, match="are they of one family"):
        check_tokenizer_fits(zoo.tiny_model(vocab_size=4000), zoo.tokenizer())
