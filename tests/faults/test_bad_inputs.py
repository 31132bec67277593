"""Bad and hostile inputs on the command line: one message that names each, exit code 2, and nothing written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

import zoo
from expunge.cli import main
from expunge.data import formats
from expunge.models.adapter_files import write_adapter
from expunge.models.load import load_model, save_model
from expunge.models.lowrank import attach

Setup = Callable[[], object]
ROW = {"question": "Where does Arvo live?", "answer": "In the town of Arvo0."}
DEEP = "[" * 100_000
LONG = "n" * 300


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, an encoder and an adapter, all sound."""
    folder = tmp_path_factory.mktemp("whole")
    save_model(zoo.tiny_model(max_position_embeddings=512), zoo.tokenizer(), folder / "model")
    corpus = zoo.corpus()
    for split in corpus:
        rows = [json.dumps({"question": e.prompt, "answer": e.completion}) for e in corpus[split]]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    BertForMaskedLM(BertConfig(vocab_size=320, **sizes)).save_pretrained(folder / "bert")
    shutil.copy(folder / "model" / "tokenizer.json", folder / "bert")
    shutil.copy(folder / "model" / "tokenizer_config.json", folder / "bert")
    adapted = attach(load_model(folder / "model"), ["model.layers.0.mlp.up_proj"], rank=2, lora_alpha=None)
    write_adapter(adapted, folder / "adapter")
    configured(str(folder / "adapter"), "adapter_config.json", base_model_name_or_path="model")()
    return folder


@pytest.fixture
def here(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to spoil, as the working directory."""
    folder = Path(shutil.copytree(whole, tmp_path / "here"))
    monkeypatch.chdir(folder)
    return folder


def contents(folder: Path) -> dict[str, object]:
    """Every file, folder and link below a folder, with what it holds."""
    found: dict[str, object] = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place) / name
            held = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[str(path)] = held
    return found


def unlearn(**changes: str) -> list[str]:
    """The words of a sound `unlearn`, with changes."""
    sound = {"model": "model", "forget": "forget.jsonl", "retain": "retain.jsonl", "output": "out"}
    sound |= {"method": "grad_diff", "epochs": "1", "batch_size": "2"}
    return ["unlearn", *(f"{name.replace('__', '.')}={value}" for name, value in (sound | changes).items())]


def evaluate(**changes: str) -> list[str]:
    """The words of a sound `evaluate`, with changes."""
    sound = {"model": "model", "forget": "forget.jsonl", "retain": "retain.jsonl", "output": "out"}
    return ["evaluate", *(f"{name}={value}" for name, value in (sound | changes).items())]


def written(path: str, content: str | bytes) -> Setup:
    """Makes a file."""
    return lambda: Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(path: str, by: int = 50) -> Setup:
    """Makes a file shorter."""
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:-by])


def parquet(path: str, table: Callable[[], pa.Table] = lambda: pa.table({k: [v] for k, v in ROW.items()})) -> None:
    """Makes a Parquet file."""
    pq.write_table(table(), path)


def linked(path: str, target: str) -> Setup:
    """Makes a symbolic link."""
    return lambda: Path(path).symlink_to(target)


def configured(folder: str, file: str = "config.json", **changes: object) -> Setup:
    """Changes a JSON file."""

    def change() -> None:
        path = Path(folder) / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def reweighted(path: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Setup:
    """Changes a weight file."""

    def rewrite() -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})

    return rewrite


def both(*steps: Setup) -> Setup:
    """One after the other."""
    return lambda: [step() for step in steps]


def bomb() -> None:
    """A small Parquet file of one long text, many times over."""
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000, pa.int32()), pa.array(["x" * 100_000]))
    pq.write_table(pa.table({"question": long, "answer": long}), "bomb.parquet")


def nothing() -> None:
    """Nothing is spoilt: the words are the bad input."""


YAML_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)

SETTINGS: dict[str, tuple[list[str], str]] = {
    "epochs inf": (unlearn(epochs="inf"), "epochs must be a number or null; got 'inf'"),
    "epochs nan": (unlearn(epochs="nan"), "epochs must be a number or null; got 'nan'"),
    "epochs 1e999": (unlearn(epochs="1e999"), "epochs"),
    "epochs 0": (unlearn(epochs="0"), "epochs must be above 0"),
    "epochs 1e15": (unlearn(epochs="1e15"), "epochs"),
    "seed of 31 digits": (unlearn(seed="1" + "0" * 30), "seed must be a whole number"),
    "seed of 5000 digits": (unlearn(seed="9" * 5000), "seed must be a whole number"),
    "seed of 12 digits": (unlearn(seed="9" * 12), "seed must be between 0 and 4294967295"),
    "negative seed": (unlearn(seed="-1"), "seed must be between 0"),
    "rate in words": (unlearn(learning_rate="fast"), "learning_rate must be a number or null; got 'fast'"),
    "rate inf": (unlearn(learning_rate="inf"), "learning_rate"),
    "rate 2": (unlearn(learning_rate="2"), "learning_rate must be between 0 and 1"),
    "batch 0": (unlearn(batch_size="0"), "batch_size must be at least 1"),
    "batch half": (unlearn(batch_size="0.5"), "batch_size must be a whole number"),
    "micro batch that does not divide": (unlearn(batch_size="4", micro_batch_size="3"), "micro_batch_size=3 does not"),
    "a million retain rows": (unlearn(retain_per_forget="1000000"), "retain_per_forget must be between 1 and 1000"),
    "beta inf": (unlearn(method="npo", beta="inf"), "beta must be a number; got 'inf'"),
    "beta 0": (unlearn(method="npo", beta="0"), "beta must be above 0"),
    "beta negative": (unlearn(method="npo", beta="-1"), "beta must be above 0"),
    "gamma nan": (unlearn(gamma="nan"), "gamma"),
    "alpha inf": (unlearn(alpha="inf"), "alpha"),
    "warmup inf": (unlearn(warmup="inf"), "warmup"),
    "length 1": (unlearn(max_length="1"), "max_length must be at least 2"),
    "device flub": (unlearn(device="flub"), "device must be such as cpu, cuda or cuda:1; got 'flub'"),
    "device cuda:9": (unlearn(device="cuda:9"), "device must be one of this computer; got 'cuda:9'"),
    "device meta": (evaluate(device="meta"), "device must be one of this computer; got 'meta'"),
    "bits 3": (unlearn(bits="3", adapter="lora"), "bits must be 8 or 4; got 3"),
    "dtype int8": (unlearn(dtype="int8"), "dtype must be auto, float32"),
    "layer 99": (unlearn(method="rmu", layer="99"), "layer must be between 0 and 2"),
    "rank of a billion": (unlearn(adapter="lora", rank="1000000000"), "rank=1000000000 is more than"),
    "a broken regular expression": (unlearn(adapter="lora", targets="("), "targets"),
    "targets that match nothing": (unlearn(adapter="lora", targets="nowhere"), "nowhere"),
    "method nop": (unlearn(method="nop"), "Did you mean 'npo'?"),
    "adapter flub": (unlearn(adapter="flub"), "no adapter is called 'flub'"),
    "retain loss flub": (unlearn(retain_loss="flub"), "no retain loss is called 'flub'"),
    "a retain set that is not there": (unlearn(retain_sets__other="1"), "other"),
    "an unknown setting": (unlearn(lerning_rate="1"), "Did you mean 'learning_rate'?"),
    "a setting without a value": (unlearn(alpha=""), "'alpha=' has no value"),
    "an empty key": ([*unlearn(), "=5"], "=5"),
    "a lone word": ([*unlearn(), "npo"], "'npo' is neither key=value"),
    "a flag with a value": ([*unlearn(), "--overwrite=maybe"], "--overwrite takes no value"),
    "a deep value": ([*unlearn(), f"template_arguments={DEEP}"], "command line: values nest more than 32 deep"),
    "a setting in pieces": (unlearn(columns__question__deep="q"), "columns"),
    "os:abort": (unlearn(method="os:abort"), "unlearning method 'os:abort' is no unlearning method, and is not called"),
    "shutil:rmtree": (
        ["evaluate", "source=shutil:rmtree", "path=model", "model=model", "output=out"],
        "'shutil:rmtree' is",
    ),
    "code that is not there": (unlearn(method="no_such_module:f"), "cannot import the module 'no_such_module'"),
    "a report on nothing": (["report"], "name the evaluated models"),
    "a report on a model": (["report", "model"], "no evaluation at model"),
    "an experiment flub": (["experiment", "flub"], "no experiment is called 'flub'"),
    "a kind flub": (["list", "flub"], "flub"),
    "a row that is not there": (["data", "show-mask", "model=model", "forget=forget.jsonl", "row=99"], "row must be"),
    "a metric flub": (evaluate(metrics="flub"), "flub"),
    "a suite flub": (evaluate(suite="flub"), "no suite is called 'flub'"),
    "a set to learn that is not there": (
        ["train", "model=model", "forget=forget.jsonl", "splits=holdout", "output=out"],
        "this reads the set holdout, and what came is forget",
    ),
    "an attribution flub": (
        ["localize", "model=model", "forget=forget.jsonl", "attribution=flub", "output=mask.safetensors"],
        "no attribution is called 'flub'",
    ),
    "a ratio of 2": (
        ["localize", "model=model", "forget=forget.jsonl", "attribution=gradient", "ratio=2", "output=m.safetensors"],
        "ratio must be",
    ),
}

FILES: dict[str, tuple[Setup, list[str], str]] = {
    # configuration files
    "no configuration": (nothing, [*unlearn(), "--config", "no.yaml"], "no configuration file at 'no.yaml'"),
    "a folder as configuration": (nothing, [*unlearn(), "--config", "model"], "'model'"),
    "a binary configuration": (written("c.yaml", b"\x00\xff\x80"), [*unlearn(), "--config", "c.yaml"], "c.yaml"),
    "a list as configuration": (
        written("c.yaml", "- a"),
        [*unlearn(), "--config", "c.yaml"],
        "'c.yaml' holds no mapping",
    ),
    "an alias bomb": (
        written("c.yaml", YAML_BOMB),
        [*unlearn(), "--config", "c.yaml"],
        "c.yaml, line 1: more than 10000",
    ),
    "deep YAML": (written("c.yaml", "a: " + "[" * 3000), [*unlearn(), "--config", "c.yaml"], "c.yaml: values nest"),
    "a YAML object": (
        written("c.yaml", "method: !!python/object/apply:os.system [touch hacked]"),
        [*unlearn(), "--config", "c.yaml"],
        "c.yaml, line 1: a configuration holds plain values only",
    ),
    "code that a configuration names": (
        both(written("c.yaml", "method: mine:f"), written("mine.py", "open('hacked', 'w')")),
        [*unlearn()[:5], "--config", "c.yaml"],
        "mine:f is code from outside that a file names",
    ),
    # data
    "no data": (nothing, unlearn(forget="forgot.jsonl"), "no file at 'forgot.jsonl'. Did you mean 'forget.jsonl'"),
    "empty data": (written("e.jsonl", ""), unlearn(forget="e.jsonl"), "'e.jsonl' is empty"),
    "broken JSON": (written("b.jsonl", '{"a": 1}\n{'), unlearn(forget="b.jsonl"), "b.jsonl, line 2: broken JSON"),
    "deep JSON": (written("d.jsonl", DEEP), unlearn(forget="d.jsonl"), "d.jsonl: its values nest too deep"),
    "a deep JSON array": (written("d.json", DEEP), unlearn(forget="d.json"), "d.json: its values nest too deep"),
    "5000 digits": (written("n.json", f'[{{"a": {"9" * 5000}}}]'), unlearn(forget="n.json"), "n.json: a number in it"),
    "no rows": (written("r.jsonl", "[1, 2]"), unlearn(forget="r.jsonl"), "r.jsonl, line 1: a row must be an object"),
    "not UTF-8": (written("u.jsonl", b"\xff\xfe{}"), unlearn(forget="u.jsonl"), "u.jsonl is not UTF-8"),
    "a hostile column": (
        written("h.jsonl", json.dumps({"\x1b[2Jq": "a", "\x9b31m": "b"})),
        unlearn(forget="h.jsonl"),
        "holds ␛[2Jq",
    ),
    "a hostile file name": (written("\x1b[31mf.jsonl", "{"), unlearn(forget="\x1b[31mf.jsonl"), "␛[31mf.jsonl, line 1"),
    "a row of the wrong form": (
        written("w.jsonl", json.dumps({"question": ["a"], "answer": "b"})),
        unlearn(forget="w.jsonl"),
        "w.jsonl, line 1",
    ),
    "truncated Parquet": (
        both(lambda: parquet("t.parquet"), cut("t.parquet")),
        unlearn(forget="t.parquet"),
        "t.parquet",
    ),
    "garbage Parquet": (written("g.parquet", b"PAR1garbagePAR1"), unlearn(forget="g.parquet"), "g.parquet"),
    "data in a loop": (linked("l.jsonl", "l.jsonl"), unlearn(forget="l.jsonl"), "l.jsonl"),
    "data with a long name": (nothing, unlearn(forget=f"{LONG}.jsonl"), "the name is too long"),
    "data below a file": (nothing, unlearn(forget="retain.jsonl/f.jsonl"), "retain.jsonl/f.jsonl"),
    # models
    "no model": (nothing, unlearn(model="./nowhere"), "no model folder at './nowhere'"),
    "a file as model": (nothing, unlearn(model="forget.jsonl"), "'forget.jsonl' is a file"),
    "a model with a long name": (nothing, unlearn(model=LONG), "the name is too long"),
    "a model in a loop": (linked("loop", "loop"), unlearn(model="./loop"), "./loop"),
    "no configuration of the model": (
        lambda: Path("model/config.json").unlink(),
        unlearn(),
        "'model' holds no config.json",
    ),
    "broken configuration": (written("model/config.json", "{"), unlearn(), "model/config.json is damaged"),
    "deep configuration": (
        written("model/config.json", DEEP),
        unlearn(),
        "model/config.json: its values nest too deep",
    ),
    "sizes in words": (configured("model", hidden_size="many"), unlearn(), "'model'"),
    "no heads": (configured("model", num_attention_heads=0), unlearn(), "'model'"),
    "two layers more": (configured("model", num_hidden_layers=5), unlearn(), "the files lack 18 weights"),
    "a layer less": (configured("model", num_hidden_layers=2), evaluate(), "the files hold 9 weights"),
    "another shape": (configured("model", intermediate_size=40), unlearn(), "9 weights of another shape"),
    "a weight less": (
        reweighted("model/model.safetensors", lambda tensors: tensors.pop("model.norm.weight")),
        evaluate(),
        "the files lack 1 weight of LlamaForCausalLM (model.norm.weight)",
    ),
    "an encoder": (nothing, evaluate(model="bert"), "'bert' (model_type bert) is an encoder"),
    "truncated weights": (cut("model/model.safetensors"), unlearn(), "model/model.safetensors is damaged"),
    "garbage weights": (
        written("model/model.safetensors", b"garbage" * 9),
        evaluate(),
        "model/model.safetensors is damaged",
    ),
    "no weights": (lambda: Path("model/model.safetensors").unlink(), unlearn(), "'model' has no weights"),
    "pickled weights": (
        lambda: Path("model/model.safetensors").rename("model/pytorch_model.bin"),
        unlearn(),
        "pickled weights can run code",
    ),
    "a garbage tokenizer": (written("model/tokenizer.json", "{"), unlearn(), "cannot load a tokenizer from 'model'"),
    "no tokenizer": (
        lambda: [p.unlink() for p in Path("model").glob("tokenizer*")],
        unlearn(),
        "tokenizer from 'model'",
    ),
    "a tokenizer of another model": (
        both(
            configured("model", vocab_size=100),
            reweighted(
                "model/model.safetensors",
                lambda tensors: tensors.update(
                    {k: v[:100].clone() for k, v in tensors.items() if "embed" in k or "head" in k}
                ),
            ),
        ),
        unlearn(),
        "tokenizer and model do not fit",
    ),
    "an adapter on itself": (
        configured("adapter", "adapter_config.json", base_model_name_or_path="adapter"),
        evaluate(model="adapter"),
        "leads back to adapter",
    ),
    "an adapter on nothing": (
        configured("adapter", "adapter_config.json", base_model_name_or_path="./nowhere"),
        evaluate(model="adapter"),
        "no model folder at './nowhere'",
    ),
    "a broken adapter configuration": (
        written("adapter/adapter_config.json", "{"),
        evaluate(model="adapter"),
        "adapter/adapter_config.json is damaged",
    ),
    "truncated adapter": (
        cut("adapter/adapter_model.safetensors"),
        evaluate(model="adapter"),
        "adapter/adapter_model.safetensors is damaged",
    ),
    "an adapter of another shape": (
        configured("adapter", "adapter_config.json", r=3),
        evaluate(model="adapter"),
        "the adapter in adapter does not fit the model",
    ),
    "an adapter of other modules": (
        configured("adapter", "adapter_config.json", target_modules=["q_proj"]),
        evaluate(model="adapter"),
        "the adapter in adapter does not fit",
    ),
    # masks, records, evaluations
    "no mask": (nothing, unlearn(mask="no.safetensors"), "no mask at no.safetensors"),
    "a garbage mask": (written("m.safetensors", b"garbage" * 9), unlearn(mask="m.safetensors"), "m.safetensors"),
    "weights as mask": (nothing, unlearn(mask="model/model.safetensors"), "model/model.safetensors holds no mask"),
    "a damaged mask": (
        lambda: save_file({"a": torch.ones(1)}, "m.safetensors", {"format": "expunge mask 1", "layout": DEEP}),
        ["mask", "info", "m.safetensors"],
        "m.safetensors",
    ),
    "no records": (nothing, ["evaluate", "records=no"], "no records at no"),
    "garbage records": (
        both(lambda: Path("r").mkdir(), written("r/records.parquet", b"garbage"), written("r/manifest.json", "{}")),
        ["evaluate", "records=r"],
        "r/records.parquet",
    ),
    "a deep log": (written("log.json", DEEP), ["evaluate", "records=log.json"], "log.json: its values nest too deep"),
    "a garbage evaluation": (written("evaluation.json", "[]"), ["report", "evaluation.json"], "evaluation.json"),
    "a deep evaluation": (written("evaluation.json", DEEP), ["report", "evaluation.json"], "evaluation.json"),
    "a garbage patch": (written("p.safetensors", b"x" * 99), ["patch", "info", "p.safetensors"], "p.safetensors"),
    "a manifest of others": (
        both(lambda: Path("out").mkdir(), written("out/manifest.json", '{"stage": "\\u001b[2J"}')),
        [*unlearn(), "--overwrite"],
        "--overwrite replaces earlier output of train or unlearn only",
    ),
    # outputs
    "an output in use": (
        both(lambda: Path("out").mkdir(), written("out/thesis.txt", "mine")),
        [*unlearn(), "--overwrite"],
        "out holds no manifest.json",
    ),
    "an output that is a file": (
        nothing,
        unlearn(output="forget.jsonl"),
        "the output forget.jsonl is an input of this command",
    ),
    "an output below a file": (nothing, unlearn(output="forget.jsonl/out"), "would be below"),
    "records below a file": (nothing, evaluate(output="forget.jsonl/out"), "would be below"),
    "a mask below a file": (
        nothing,
        [
            "localize",
            "model=model",
            "forget=forget.jsonl",
            "attribution=magnitude",
            "ratio=0.1",
            "output=forget.jsonl/m",
        ],
        "would be below",
    ),
    "an output with a long name": (nothing, unlearn(output=LONG), "the name is too long"),
    "an output in a loop": (
        linked("loop", "loop"),
        unlearn(output="loop"),
        "loop is a symbolic link that leads nowhere",
    ),
    "nothing to resume": (nothing, [*unlearn(), "--resume"], "nothing to resume"),
    "a planted link": (
        both(
            lambda: Path("out").mkdir(),
            written("out/manifest.json", '{"stage": "unlearn", "arguments": {}}'),
            linked("out/history.csv", "../forget.jsonl"),
        ),
        [*unlearn(), "--overwrite"],
        "out holds a symbolic link, out/history.csv to ../forget.jsonl",
    ),
}


@pytest.mark.parametrize(("words", "said"), SETTINGS.values(), ids=SETTINGS)
def test_settings(words: list[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(words, said, here, capsys)


@pytest.mark.parametrize(("spoil", "words", "said"), FILES.values(), ids=FILES)
def test_files(spoil: Setup, words: list[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil()
    refused(words, said, here, capsys)


def test_a_parquet_bomb(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LARGEST", 50_000_000)
    bomb()
    assert Path("bomb.parquet").stat().st_size < 1_000_000
    refused(unlearn(forget="bomb.parquet"), "bomb.parquet, of 0.0 MB, unpacks to more than 0 GB", here, capsys)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (configured("model", num_hidden_layers=5), "the files lack 18 weights of LlamaForCausalLM"),
        (cut("model/model.safetensors"), "model/model.safetensors is damaged"),
        (nothing, ""),
    ],
)
@pytest.mark.parametrize("words", [unlearn, evaluate])
def test_a_dry_run_says_it_too(
    words: Callable[[], list[str]], spoil: Setup, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil()
    before = contents(here)
    with pytest.raises(SystemExit) as caught:
        main([*words(), "--dry-run"])
    out, err = capsys.readouterr()
    assert caught.value.code == (1 if said else 0), (out, err)
    assert said in out if said else "No problem found" in out
    assert contents(here) == before


@pytest.mark.parametrize("errors", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")])
@pytest.mark.parametrize("verb", [unlearn, evaluate])
def test_a_disk_that_refuses(
    verb: Callable[[], list[str]],
    errors: OSError,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise errors

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SystemExit) as caught:
        main(verb())
    err = capsys.readouterr().err
    assert caught.value.code == 2 and "Traceback" not in err
    assert ("no permission" in err) == (errors.errno == 13) and ("disk is full" in err) == (errors.errno == 28)


def test_code_of_a_configuration_runs_when_it_is_allowed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text("method: zoo:bare_loss")
    base = [word for word in unlearn() if not word.startswith("method=")]
    for more in (["--config", "c.yaml", "--allow-code"], ["method=zoo:bare_loss"]):
        with pytest.raises(SystemExit):
            main([*base, "--dry-run", *more])
        assert "running code from zoo:bare_loss\n" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main([*base, "--dry-run", "--config", "c.yaml"])
    err = capsys.readouterr().err
    assert caught.value.code == 2 and "--allow-code" in err and "running" not in err


@pytest.mark.filterwarnings("ignore")
def test_a_run_folder_behind_a_link_is_replaced_where_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("disk/run").mkdir(parents=True)
    Path("disk/run/manifest.json").write_text('{"stage": "unlearn", "arguments": {}}')
    Path("disk/run/history.jsonl").touch()
    Path("out").symlink_to("disk/run")
    with pytest.raises(SystemExit) as caught:
        main([*unlearn(), "--overwrite"])
    assert caught.value.code == 0, capsys.readouterr()
    assert Path("out").is_symlink() and Path("disk/run/model.safetensors").is_file()
    assert not Path("disk/run/history.jsonl").exists()


def refused(words: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line answers these words with a message, and leaves everything as it is."""
    before = contents(folder)
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(words)
    out, err = capsys.readouterr()
    assert caught.value.code == 2, (out, err)
    assert said in err and "Traceback" not in err and len(err) < 3000, err
    assert not [c for c in out + err if (ord(c) < 32 and c not in "\n\t") or 0x80 <= ord(c) < 0xA0]
    assert contents(folder) == before


DATA = ["model=model", "forget=forget.jsonl", "retain=retain.jsonl"]
APART = {
    "a mask over the data": ["localize", *DATA, "attribution=magnitude", "output=forget.jsonl", "--overwrite"],
    "a run over its start model": ["unlearn", *DATA, "method=grad_diff", "output=model", "--overwrite"],
    "a run over a folder with its data": ["unlearn", "model=model", "forget=in/f.jsonl", "output=in", "--overwrite"],
    "mask and scores in one file": ["localize", *DATA, "attribution=magnitude", "output=m.st", "scores=m.st"],
}


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize("words", APART.values(), ids=APART)
def test_an_output_is_no_input(
    words: list[str], dry: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in").mkdir()
    Path("in/f.jsonl").write_bytes(Path("forget.jsonl").read_bytes())
    Path("in/manifest.json").write_text('{"stage": "unlearn", "arguments": {}}')
    said = "two outputs of this command" if "scores=m.st" in words else "an input of this command"
    refused([*words, *dry], said, here, capsys)


def test_the_root_is_no_output(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["unlearn", *DATA, "output=/", "--overwrite"], "the root of a file system", here, capsys)


def test_a_rate_that_is_never_reached(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["unlearn", *DATA, "output=out", "epochs=1", "warmup=1e300"]
    refused(words, "warmup must be at most the 1 epochs of the run", here, capsys)
