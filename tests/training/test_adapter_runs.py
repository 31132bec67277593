"""Run folders of adapters: what is said of their base, and that they load, resume and refuse another one."""

import inspect
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

import expunge
import zoo
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.models.adapter_files import about_adapter
from expunge.models.fingerprint import base_fingerprint, model_fingerprint
from expunge.models.load import bits_of, load_model, load_tokenizer, save_model
from expunge.models.lowrank import without_known_warnings

IDS = torch.tensor([[1, 17, 40, 3]])


def unlearn(model: Any, **changes: Any) -> expunge.Run:
    settings = {"method": "grad_ascent", "epochs": 1, "batch_size": 3, "learning_rate": 1e-2} | changes
    return expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), **settings)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    return save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "start")


def with_own_adapter(start: Path, seed: int = 0, **changes: Any) -> PeftModel:
    given = {"target_modules": ["q_proj", "down_proj"], "r": 3} | changes
    with without_known_warnings():
        model = get_peft_model(load_model(start), LoraConfig(**given))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.normal_(0, 0.1, generator=generator)
    return model


@pytest.mark.parametrize("changes", [{}, {"modules_to_save": ["lm_head"]}])
def test_the_base_of_an_adapter_has_the_fingerprint_of_the_plain_model(start: Path, changes: dict) -> None:
    plain = load_model(start)
    assert base_fingerprint(plain) == model_fingerprint(plain)
    model = with_own_adapter(start, **changes)
    assert base_fingerprint(model) == model_fingerprint(plain) != model_fingerprint(model)
    with torch.no_grad():
        model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight[0, 0] += 1
    assert base_fingerprint(model) != model_fingerprint(plain)


class _InOrder(set[str]):
    """A set gone through in a stated order: that of a plain set differs between processes, as strings' hashes do."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.names = names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)


def test_the_fingerprint_of_an_adapter_is_the_same_whatever_the_order_of_its_targets(start: Path) -> None:
    model = with_own_adapter(start)
    found = set()
    for targets in (_InOrder(["q_proj", "v_proj"]), _InOrder(["v_proj", "q_proj"])):
        model.peft_config["default"].target_modules = targets
        found.add(model_fingerprint(model))
    model.peft_config["default"].target_modules = {"q_proj", "k_proj"}
    assert len(found) == 1 and model_fingerprint(model) not in found


def test_a_run_of_a_models_own_adapter_loads_and_resumes_and_notices_another_start(start: Path, tmp_path: Path) -> None:
    run = unlearn(with_own_adapter(start), output_dir=tmp_path / "run")
    wanted = run.model(input_ids=IDS).logits
    loaded = load_model(tmp_path / "run")
    assert not isinstance(loaded, PeftModel)
    assert_close(loaded(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-4)
    assert run.manifest.inputs["model"] == model_fingerprint(load_model(start))
    again = unlearn(with_own_adapter(start), output_dir=tmp_path / "run", resume=True)
    assert isinstance(again.model, PeftModel) and len(again.history) == len(run.history) == 2
    assert torch.equal(again.model(input_ids=IDS).logits, wanted)
    with pytest.raises(ExpungeError, match="its inputs were others: start_adapter"):
        unlearn(with_own_adapter(start, seed=1), output_dir=tmp_path / "run", resume=True)


@pytest.mark.parametrize("adapter", ["lora", "fila"])
def test_checkpoints_say_what_they_belong_on(start: Path, tmp_path: Path, adapter: str) -> None:
    more = {"epsilon": "auto"} if adapter == "fila" else {}
    run = unlearn(
        load_model(start), adapter=adapter, rank=2, save="adapter", epochs=2, checkpoint_every=1, keep_checkpoints=2,
        output_dir=tmp_path / "run", **more,
    )  # fmt: skip
    checkpoint = run.checkpoints[0]
    about = about_adapter(checkpoint)
    assert about == about_adapter(tmp_path / "run") and about["kind"] == adapter
    load_model(checkpoint)
    shutil.rmtree(start)
    save_model(zoo.tiny_model(seed=1), zoo.tokenizer(), start)
    with pytest.raises(ExpungeError, match="was trained on another model"):
        load_model(checkpoint)


def test_the_base_is_loaded_in_the_type_it_was_trained_in(start: Path, tmp_path: Path) -> None:
    run = unlearn(load_model(start, dtype="bfloat16"), adapter="lora", save="adapter", output_dir=tmp_path / "run")
    loaded = load_model(tmp_path / "run")
    assert next(loaded.parameters()).dtype == torch.bfloat16
    assert torch.equal(loaded(input_ids=IDS).logits, run.model(input_ids=IDS).logits)


@pytest.fixture
def pretended_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading with bits as it looks from outside: coarser weights of a model that says that it is quantized."""
    plainly: Callable[..., tuple[PreTrainedModel, dict[str, Any]]] = AutoModelForCausalLM.from_pretrained

    def from_pretrained(source: str, **given: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        how = given.pop("quantization_config", None)
        given.pop("device_map", None)
        model, found = plainly(source, **given)
        if how is not None:
            with torch.no_grad():
                for name, p in model.named_parameters():
                    if name.endswith("_proj.weight"):
                        p.copy_((p * 100).round() / 100)
            model.config.quantization_config = how
            model.is_quantized = True
            model.hf_quantizer = SimpleNamespace(is_trainable=True, is_qat_trainable=False)
        return model, found

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr("expunge.models.load._check_quantizing", lambda bits, place: None)
    monkeypatch.setattr("expunge.models.load._quantization", lambda bits: BitsAndBytesConfig(load_in_8bit=True))


@pytest.mark.usefixtures("pretended_bits")
def test_an_adapter_on_a_quantized_base_is_loaded_on_one(start: Path, tmp_path: Path) -> None:
    model = load_model(start, bits=8)
    assert bits_of(model) == 8 and bits_of(load_model(start)) is None
    run = unlearn(model, adapter="lora", rank=2, save="adapter", output_dir=tmp_path / "run")
    assert isinstance(run.model, PeftModel) and about_adapter(tmp_path / "run")["bits"] == 8
    for bits in (None, 8):
        loaded = load_model(tmp_path / "run", bits=bits)
        assert isinstance(loaded, PeftModel) and not loaded.training
        assert torch.equal(loaded(input_ids=IDS).logits, run.model(input_ids=IDS).logits)
    measured = [
        expunge.evaluate(model, zoo.tokenizer(), zoo.corpus(), metrics=["forget_probability"])["forget_probability"]
        for model in (run.model, load_model(tmp_path / "run"))
    ]
    assert measured[0].value == measured[1].value
    finished = unlearn(
        load_model(start, bits=8), adapter="lora", rank=2, save="adapter", output_dir=tmp_path / "run", resume=True
    )
    assert isinstance(finished.model, PeftModel) and finished.manifest.results["finished"]
    for given, message in (
        ({"bits": 4}, "bits=4: the adapter in .* was trained on weights in 8 bits"),
        ({"dtype": "float32"}, "dtype=float32: over quantized weights an adapter computes as it was trained"),
    ):
        with pytest.raises(ExpungeError, match=message):
            load_model(tmp_path / "run", **given)
    unlearn(load_model(start), adapter="lora", rank=2, save="adapter", output_dir=tmp_path / "plain")
    with pytest.raises(ExpungeError, match=r"bits=8: the adapter in .* was trained on weights as they are stored"):
        load_model(tmp_path / "plain", bits=8)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
@pytest.mark.parametrize("bits", [4, 8])
def test_so_it_is_through_bitsandbytes(start: Path, tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    model = load_model(start, bits=bits)
    assert bits_of(model) == bits
    run = unlearn(model, adapter="lora", rank=2, save="adapter", output_dir=tmp_path / "run")
    loaded = load_model(tmp_path / "run")
    assert isinstance(loaded, PeftModel)
    ids = IDS.to("cuda")
    assert_close(loaded(input_ids=ids).logits, run.model(input_ids=ids).logits)


@pytest.fixture
def adapter_folder(start: Path, tmp_path: Path) -> Path:
    run = unlearn(load_model(start), adapter="lora", rank=2, save="adapter", output_dir=tmp_path / "first")
    assert run.folder is not None
    return run.folder


@pytest.mark.parametrize("save", ["adapter", "both"])
def test_an_adapter_on_a_merged_adapter_is_not_written(adapter_folder: Path, tmp_path: Path, save: Any) -> None:
    with pytest.raises(ExpungeError, match=rf"save={save}: .*first' holds an adapter.*Say save=merged"):
        unlearn(load_model(adapter_folder), adapter="lora", rank=2, save=save, output_dir=tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_run_that_starts_at_an_adapter_names_it_and_loads(adapter_folder: Path, tmp_path: Path) -> None:
    model = load_model(adapter_folder)
    run = unlearn(model, adapter="lora", rank=2, output_dir=tmp_path / "second", epochs=2, keep_checkpoints=0)
    assert run.manifest.results["start_model"] == str(adapter_folder)
    load_model(run.checkpoints[0])
    assert_close(load_model(tmp_path / "second")(input_ids=IDS).logits, run.model(input_ids=IDS).logits)


def test_what_the_error_says_writes_a_model_to_start_from(adapter_folder: Path, tmp_path: Path) -> None:
    load_model(adapter_folder).save_pretrained(tmp_path / "whole")
    run = unlearn(load_model(tmp_path / "whole"), adapter="lora", save="adapter", output_dir=tmp_path / "second")
    assert_close(load_model(tmp_path / "second")(input_ids=IDS).logits, run.model(input_ids=IDS).logits)


def test_the_tokenizer_of_an_adapter_is_its_own_or_that_of_its_base(adapter_folder: Path, tmp_path: Path) -> None:
    unlearn(load_model(tmp_path / "start"), adapter="lora", save="both", output_dir=tmp_path / "both")
    assert (tmp_path / "both/adapter/tokenizer.json").is_file()
    for file in adapter_folder.glob("tokenizer*"):
        file.unlink()
    assert load_tokenizer(adapter_folder).get_vocab() == zoo.tokenizer().get_vocab()


def test_an_unfinished_run_is_told_from_a_wrong_folder(start: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def progress(what: str, done: int, *_: Any) -> None:
        if what == "grad_ascent" and done == 3:
            raise Killed

    with pytest.raises(Killed):
        unlearn(load_model(start), epochs=2, output_dir=tmp_path / "killed", progress=progress)
    with pytest.raises(ExpungeError, match=r"is an unfinished run.*resume=True, or take its latest.*checkpoint-2"):
        load_model(tmp_path / "killed")
    load_model(tmp_path / "killed/checkpoints/checkpoint-2")
    shutil.rmtree(tmp_path / "killed/checkpoints")
    with pytest.raises(ExpungeError, match="no checkpoint is there yet"):
        load_model(tmp_path / "killed")
    (tmp_path / "killed/manifest.json").write_text("{}")
    with pytest.raises(ExpungeError, match=r"holds no config.json"):
        load_model(tmp_path / "killed")


@pytest.mark.parametrize("save", ["adapter", "merged", "both"])
def test_a_models_own_adapter_is_saved_as_asked_and_told_in_the_manifest(
    start: Path, tmp_path: Path, save: Any
) -> None:
    run = unlearn(with_own_adapter(start), save=save, output_dir=tmp_path / "run")
    assert isinstance(run.model, PeftModel) == (save == "adapter")
    assert (tmp_path / "run/model.safetensors").is_file() == (save != "adapter")
    assert (tmp_path / "run/adapter/adapter_model.safetensors").is_file() == (save == "both")
    loaded = load_model(tmp_path / "run")
    assert_close(loaded(input_ids=IDS).logits, run.model(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)
    results = Manifest.load(tmp_path / "run").results
    # Three blocks, rank 3, q_proj 32 + 32 and down_proj 48 + 32: 3 * 3 * 144.
    assert (results["trained_parameters"], results["adapted_matrices"]) == (1296, 6)
    assert results["adapter"] == {"rank": 3, "lora_alpha": 8, "targets": ["down_proj", "q_proj"]}
    again = unlearn(with_own_adapter(start), save=save, output_dir=tmp_path / "run", resume=True)
    assert_close(again.model(input_ids=IDS).logits, run.model(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(ExpungeError, match="the model's own adapter is trained, where it is"):
        unlearn(with_own_adapter(start), targets="mlp")


def test_what_is_no_model_and_no_rule_is_refused_with_what_is_one(adapter_folder: Path) -> None:
    with pytest.raises(ExpungeError, match=r"takes the loaded start model; got 'start'.*load_model"):
        inspect.unwrap(expunge.load_adapter)("start", adapter_folder)  # type: ignore[arg-type]
    with pytest.raises(ExpungeError, match=r"stop='forget_probability<=0.2': .*measured_rule"):
        inspect.unwrap(expunge.unlearn)(
            zoo.tiny_model(),
            zoo.tokenizer(),
            zoo.corpus(),
            stop="forget_probability<=0.2",  # type: ignore[arg-type]
        )


def test_files_of_weights_are_as_readable_as_those_beside_them(start: Path, tmp_path: Path) -> None:
    unlearn(
        load_model(start), adapter="fila", epsilon="auto", save="both", epochs=2, keep_checkpoints=0,
        importance=str(tmp_path / "run.safetensors"), output_dir=tmp_path / "run",
    )  # fmt: skip
    expunge.finetune(
        load_model(start), zoo.tokenizer(), zoo.corpus(), epochs=2, keep_checkpoints=0, output_dir=tmp_path / "tuned"
    )
    files = [*tmp_path.rglob("*.safetensors")]
    (tmp_path / "beside").write_text("")
    usual = (tmp_path / "beside").stat().st_mode
    assert len(files) >= 5 and all(file.stat().st_mode == usual for file in files)
