"""Every preset is read, dry-run and run for a few steps on a tiny model of its architecture."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import presets_playground as playground
import zoo
from expunge.cli.verb import DRY_RUN, Verb
from expunge.cli.verbs import evaluate, localize, train, unlearn
from expunge.cli.verbs.experiment import verb_of
from expunge.config import presets
from expunge.config.resolve import Resolved, resolve
from expunge.core.checks import ExpungeError
from expunge.experiments._locality.protocol import Protocol
from expunge.models.load import save_model

VERBS: dict[str, Verb[Any]] = {v.name: v for v in (train.VERB, localize.VERB, unlearn.VERB, evaluate.VERB)}
EXPERIMENTS = ("experiment locality", "experiment loku")


def cases(*verbs: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(preset, verb, words): verbs without words, and with those of each section; what is extended has its own turn."""
    for name in presets.names():
        _, *extended = presets.texts(name)
        sections = presets.sections(name)[sum(len(presets.sections(base)) for base in extended[:1]) :]
        by_method = {s.verb for s in sections if presets.COVERS in s.conditions}
        for section in sections:
            words = tuple(f"{key}={value}" for key, value in section.conditions.items())
            if section.verb in verbs and (words or section.verb not in by_method):
                yield name, section.verb, words


def verb_called(name: str) -> Verb[Any]:
    return VERBS.get(name) or verb_of(name.removeprefix("experiment "))


def resolved(verb: str, *words: str) -> Resolved[Any]:
    about = verb_called(verb)
    return resolve(
        about.config,
        overrides=words,
        extra_settings=lambda values: [*about.own_settings, *about.extra_settings(values)],
        verb=verb,
    )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models by architecture, and data in the shape of the benchmarks."""
    folder = tmp_path_factory.mktemp("bench")
    for architecture in set(playground.ARCHITECTURE.values()):
        model = playground.small(architecture)
        save_model(model, zoo.tokenizer(), folder / architecture)
    playground.write_tofu(folder / "tofu")
    playground.write_muse(folder / "muse")
    playground.write_choices(folder / "wmdp")
    playground.write_texts(folder / "forget.jsonl", "forget", 6)
    for name in ("retain", "holdout"):
        playground.write_texts(folder / f"{name}.jsonl", "retain")
    return folder


def words_for(name: str, verb: str, words: tuple[str, ...], bench: Path, output: Path) -> list[str]:
    """What a user adds to a preset: the model, the output, and data of the right shape; ranks that fit a tiny model."""
    about = resolved(verb, f"preset={name}", "model=m", "output=o", "forget=f", *words)
    source, adapter = about.config.source, getattr(about.config, "adapter", None)
    texts = [f"forget={bench}/forget.jsonl", f"retain={bench}/retain.jsonl"]
    data = {
        "tofu": [f"path={bench}/tofu"],
        "muse": [f"path={bench}/muse"],
        "wmdp": [f"path={bench}/wmdp"],
        "tdec": [*texts, f"holdout={bench}/holdout.jsonl"],
        "files": texts,
    }[source]
    fitting = {"fila": ["rank=4", "retain_samples=5"], "lora": ["rank=4"]}.get(adapter, [])
    return [f"preset={name}", f"output={output}", *data, *fitting, *words]


def model_of(name: str) -> str:
    return playground.ARCHITECTURE[name.partition("/")[2].partition("-")[0]]


@pytest.mark.parametrize(("name", "verb", "words"), list(cases(*EXPERIMENTS)), ids=str)
def test_experiments_know_every_setting(name: str, verb: str, words: tuple[str, ...]) -> None:
    assert f"preset {name}" in resolved(verb, f"preset={name}", *words).origins.values()


def test_every_section_has_a_verb_and_every_preset_says_what_it_is() -> None:
    assert len(presets.names()) >= 20
    for name in presets.names():
        assert {s.verb for s in presets.sections(name)} <= {*VERBS, *EXPERIMENTS}
        assert 20 < len(presets.about(name)) <= 100
        for text in presets.texts(name).values():
            head = text.partition("about:")[0]
            assert head.startswith("# Source: ") and ("eparture" in head or "extends" in text)


@pytest.mark.parametrize(("name", "verb", "words"), list(cases(*VERBS)), ids=str)
def test_dry_runs_accept_every_section(
    call: Callable[..., Any], bench: Path, tmp_path: Path, name: str, verb: str, words: tuple[str, ...]
) -> None:
    folder = bench / model_of(name)
    code, out, err = call(verb, f"model={folder}", *words_for(name, verb, words, bench, tmp_path / "run"), "--dry-run")
    assert code == 0 and set(err.splitlines()) <= {DRY_RUN}, err
    assert f"preset {name}" in out


def methods_once() -> list[tuple[str, tuple[str, ...]]]:
    """(preset, words): each method and each adapter of each paper once."""
    once = {
        (name.partition("/")[0], words): name
        for name, verb, words in cases("unlearn")
        if len(words) == 1 and words[0].startswith(("method=", "adapter="))
    }
    return [(name, words) for (_, words), name in once.items()]


FEW_STEPS = ("epochs=0.6", "batch_size=2", "warmup=0", "checkpoint_every=0")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*retain importances are above epsilon")  # of the published epsilon
@pytest.mark.parametrize(("name", "words"), methods_once(), ids=str)
def test_a_few_steps_on_a_tiny_model(
    call: Callable[..., Any], bench: Path, tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    given = words_for(name, "unlearn", words, bench, tmp_path / "run")
    rows = 36 if f"forget={bench}/forget.jsonl" in given else 6
    more = [*FEW_STEPS, f"epochs={4 / rows}"]
    more += ["stop=[]"] if "gpt-neo" in name else []  # a random model is at the level of unseen text already
    code, out, err = call("unlearn", f"model={bench / model_of(name)}", *given, *more)
    assert code == 0, err
    assert "2 steps" in out


def test_masks_of_wagle_and_a_run_in_one(call: Callable[..., Any], bench: Path, tmp_path: Path) -> None:
    common = ("preset=wagle/llama-2-7b", f"path={bench}/tofu", f"model={bench}/llama")
    code, _, err = call("localize", *common, f"output={tmp_path}/mask.safetensors")
    assert code == 0, err
    mask = f"mask={tmp_path}/mask.safetensors"
    code, out, err = call("unlearn", *common, "method=npo", mask, f"output={tmp_path}/run", *FEW_STEPS)
    assert code == 0 and "2 steps" in out, err


def test_start_and_retain_model_of_tofu(call: Callable[..., Any], bench: Path, tmp_path: Path) -> None:
    common = ("preset=tofu/llama-3.2-1b", f"path={bench}/tofu", f"model={bench}/llama", "epochs=1", "batch_size=8")
    assert "2 steps" in call("train", *common, f"output={tmp_path}/start").out  # 6 + 10 rows
    assert "2 steps" in call("train", *common, "splits=retain", f"output={tmp_path}/retain").out


def test_the_locality_presets_describe_runs_of_its_methods() -> None:
    for name in ("loc-unlearn/llama-3.1-8b", "loc-unlearn/olmo-2-7b"):
        given = resolved("experiment locality", f"preset={name}").extra
        parts = ("ratio", "teaching", "unlearning", "relearning", "matching")
        protocol = Protocol(**{part: given[part] for part in parts})
        assert {m: protocol.unlearning_with(m)["learning_rate"] for m in given["methods"]} == {
            "wga": 1e-5,
            "npo": 1e-5,
            "dpo": 1e-5,
            "rmu": 5e-5,
        }


class TestLayering:
    def test_files_and_words_win_over_the_preset(self, tmp_path: Path) -> None:
        (tmp_path / "run.yaml").write_text("preset: tofu/llama-3.2-1b\nepochs: 3\nbeta: 0.5\n")
        about = verb_called("unlearn")
        found = resolve(
            about.config,
            files=[tmp_path / "run.yaml"],
            overrides=["model=m", "output=o", "batch_size=8"],
            extra_settings=about.extra_settings,
            verb="unlearn",
        )
        config = found.config
        assert (config.epochs, config.batch_size, config.weight_decay, found.extra["beta"]) == (3, 8, 0.01, 0.5)
        assert found.origins["epochs"].endswith("run.yaml, line 2")
        assert found.origins["batch_size"] == "command line"
        assert found.origins["weight_decay"] == "preset tofu/llama-3.2-1b"

    def test_the_last_preset_counts_and_null_is_none(self) -> None:
        words = ("model=m", "output=o", "preset=loku/phi-1.5")
        assert resolved("unlearn", *words, "preset=tofu/phi-1.5").config.seed == 42
        assert resolved("unlearn", *words, "preset=null").config.method == "npo"

    def test_conditions_look_at_what_the_user_set(self) -> None:
        words = ("preset=tofu/llama-2-7b", "model=m", "output=o", "method=simnpo")
        assert resolved("unlearn", *words).extra["beta"] == 4.5
        assert resolved("unlearn", *words, "forget=forget05").extra["beta"] == 2.5
        assert resolved("unlearn", *words, "forget=forget05", "beta=3").extra["beta"] == 3
        assert (
            resolved("unlearn", "preset=tofu/llama-2-7b", "model=m", "output=o", "method=grad-ascent").config.epochs
            == 10
        )

    @pytest.mark.parametrize(
        ("verb", "words", "message"),
        [
            ("unlearn", ["preset=tofu/lama-2-7b"], "Did you mean 'tofu/llama-2-7b'?"),
            (
                "localize",
                ["preset=tofu/llama-2-7b"],
                "has no settings for localize; it has some for: train, unlearn, ev",
            ),
            (
                "unlearn",
                ["preset=loku/phi-1.5", "method=npo"],
                "has no settings for method=npo; it has some for: ihl. For",
            ),
        ],
    )
    def test_mistakes(self, verb: str, words: list[str], message: str) -> None:
        with pytest.raises(ExpungeError) as caught:
            resolved(verb, *words, "model=m", "output=o")
        assert message in str(caught.value)

    def test_a_preset_is_a_word_for_verbs_alone(self) -> None:
        about = verb_called("unlearn")
        with pytest.raises(ExpungeError, match="no setting is called 'preset'"):
            resolve(about.config, overrides=["preset=tofu/llama-2-7b", "model=m", "output=o"])


class TestShown:
    def test_the_page_names_each(self) -> None:
        page = (Path(__file__).parents[2] / "docs/presets.md").read_text()
        assert [name for name in presets.names() if f"`{name}`" not in page] == []

    def test_the_list_has_a_line_for_each(self, call: Callable[..., Any]) -> None:
        out = call("list", "presets").out
        for name in presets.names():
            assert [name, *presets.about(name).split()] in [line.split() for line in out.splitlines()]

    def test_a_preset_is_shown_with_what_it_extends(self, call: Callable[..., Any]) -> None:
        code, out, _ = call("list", "presets", "tofu/llama-3.2-1b")
        assert code == 0 and out.index("dual_step: 5") < out.rindex("tofu/llama-2-7b\n") < out.index("beta: 4.5")
        assert call("list", "presets", "tofu/llama").code == 2

    def test_help_names_the_word_where_there_are_presets(self, call: Callable[..., Any]) -> None:
        assert "preset=NAME" in call("unlearn", "--help").out
        assert "preset=NAME" not in call("report", "--help").out
