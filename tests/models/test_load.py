"""Fingerprints, and models that cannot be loaded."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

import zoo
from expunge.core.checks import ExpungeError
from expunge.models.fingerprint import model_fingerprint, tokenizer_fingerprint
from expunge.models.load import check_tokenizer_fits, load_model, load_tokenizer, save_model


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


def test_a_name_that_could_be_a_hub_id_is_told_the_nearest_folder_before_the_hub_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object, **__: object) -> None:
        raise OSError("the hub was asked")

    monkeypatch.chdir(tmp_path)
    Path("open-unlearning/src").mkdir(parents=True)  # a clone of code, of the name of an organization on the hub
    for name in ("runs/npo", "my-model", "gpt2-x"):
        Path(name).mkdir(parents=True)
        (Path(name) / "config.json").write_text("{}")
    for library in (AutoConfig, AutoTokenizer):
        monkeypatch.setattr(library, "from_pretrained", asked)
    for load in (load_model, load_tokenizer):
        for wrong, near in (("runs/npp", "runs/npo"), ("my-modle", "my-model")):
            with pytest.raises(ExpungeError) as refused:
                load(wrong)
            assert f"no model folder at '{wrong}'. Did you mean '{near}'? " in str(refused.value)
            assert str(refused.value).endswith(f"If it is a model on the hub, get it first: hf download {wrong}")
        with pytest.raises(ExpungeError, match=r"no model folder at 'runs/another'\. If it is"):
            load("runs/another")
        with pytest.raises(ExpungeError, match=r"no model folder at 'runs/n po'\. Did you mean 'runs/npo'\?$"):
            load("runs/n po")  # no name on a hub
        for elsewhere in ("gpt2", "user/model", "distilgpt2", "open-unlearning/a-model"):
            with pytest.raises(ExpungeError, match="the hub was asked"):
                load(elsewhere)
        with monkeypatch.context() as downloaded:
            downloaded.setattr("expunge.models.load.cached", lambda source, name: Path(name))
            with pytest.raises(ExpungeError, match="the hub was asked"):
                load("runs/npp")


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
