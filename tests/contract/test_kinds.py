"""What holds for everything that goes by name, of whatever kind, found by discovery."""

import inspect
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

import expunge
import zoo
from expunge.cli.inputs import source_settings
from expunge.config.settings import parameters
from expunge.core import catalogue
from expunge.core.catalogue import KINDS, names, resolve
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus
from expunge.evaluation.suite import Suite
from expunge.localize.attribution import INPUTS
from expunge.models.matrices import target_matrices

ALL = [(kind, name) for kind in KINDS for name in names(kind)]
OUTSIDE = {
    **dict.fromkeys(("methods", "retain_losses", "metrics"), zoo.bare_loss),
    "adapters": zoo.bare_adapter,
    "attributions": zoo.bare_attribution,
    "suites": zoo.bare_suite,
    "attacks": zoo.bare_attack,
    **dict.fromkeys(("sources", "experiments"), zoo.bare_source),
}
SPLITS = ("forget", "retain", "holdout", "retain_perturbed", "real_authors", "world_facts", "world")


def test_every_kind_has_some() -> None:
    assert set(KINDS) == {kind for kind, _ in ALL}
    assert {("attacks", "relearn"), ("attacks", "quantize"), ("suites", "tofu"), ("sources", "files")} <= set(ALL)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_name_is_a_module_is_a_documented_function(kind: str, name: str) -> None:
    function = resolve(kind, name)
    assert function.__name__ == name and function.__module__ == f"{KINDS[kind].package}.{name}"
    first = (inspect.getdoc(function) or "").partition("\n")[0]
    assert len(first.split()) >= 3 and first.endswith((".", "?", ":", ";", ","))
    for setting in parameters(function, owner=name):
        assert setting.type is not inspect.Parameter.empty, setting.name


@pytest.mark.parametrize("kind", ["suites", "sources", "attacks", "adapters", "attributions", "metrics"])
def test_settings_are_explained(kind: str) -> None:
    for name in names(kind):
        for setting in parameters(resolve(kind, name), owner=name):
            assert setting.doc, f"{kind} {name}: {setting.name} has no sentence under Args:"


@pytest.mark.parametrize("kind", KINDS)
def test_code_of_others_joins_by_path_and_by_entry_point(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"zoo:{OUTSIDE[kind].__name__}"
    assert resolve(kind, path) is OUTSIDE[kind]
    theirs = EntryPoint("theirs", path, KINDS[kind].group)
    monkeypatch.setattr(catalogue, "entry_points", lambda *, group: [theirs] if group == KINDS[kind].group else [])
    assert "theirs" in names(kind) and resolve(kind, "theirs") is OUTSIDE[kind]
    with pytest.raises(ExpungeError, match="thiers"):
        resolve(kind, "thiers")


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_ours_have_the_signature_that_others_must_have(kind: str, name: str) -> None:
    catalogue._check_signature(KINDS[kind], name, resolve(kind, name))


def test_what_may_be_shown_is_what_there_is() -> None:
    assert KINDS["attributions"].inputs == (*INPUTS,)


@pytest.mark.parametrize(
    "path", ["os:abort", "os:_exit", "shutil:rmtree", "subprocess:run", "builtins:exec", "os:times"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_functions_of_another_kind_are_not_called(kind: str, path: str) -> None:
    if kind == "metrics" and path not in ("os:abort", "os:times"):
        pytest.skip("a metric may call its inputs as it likes; it is called with records alone")
    with pytest.raises(ExpungeError, match="is not called"):
        resolve(kind, path)


@pytest.mark.parametrize("name", ["os:", ":abort", "os:a b", "a/b:c", "os:path:join", "..os:abort"])
def test_names_of_outside_code_have_one_form(name: str) -> None:
    with pytest.raises(ExpungeError, match=r"named as package\.module:function"):
        resolve("methods", name)


def test_a_gate_is_asked_before_anything_is_imported() -> None:
    asked = []

    def gate(what: str, path: str) -> None:
        asked.append((what, path))
        raise ExpungeError("closed")

    with catalogue.guarded(gate), pytest.raises(ExpungeError, match="closed"):
        resolve("methods", "no_such_module:f")
    assert asked == [("unlearning method", "no_such_module:f")]
    with pytest.raises(ExpungeError, match="cannot import the module 'no_such_module'"):
        resolve("methods", "no_such_module:f")


@pytest.mark.parametrize("name", names("suites"))
def test_suites_name_their_measures_once_and_select_any_of_them(name: str) -> None:
    suite = resolve("suites", name)(SPLITS)
    assert isinstance(suite, Suite) and suite.name == name and suite.names
    assert len(set(suite.names)) == len(suite.names)
    for measure in suite.names:
        assert measure in suite.select([measure]).names
    for entry in suite.entries:
        assert entry.definition.text and entry.required() is not None
        assert set(entry.views) <= set(inspect.signature(entry.metric).parameters)


@pytest.mark.parametrize("name", names("sources"))
def test_sources_answer_with_a_corpus_or_say_what_they_need(name: str, tmp_path: Path) -> None:
    source = resolve("sources", name)
    assert catalogue.needs(source) == ()
    source_settings({"source": name})  # none of its settings is hidden by one of ours
    known = catalogue.hyperparameters(source)
    given = [key for key, value in known.items() if key == "path" or value is inspect.Parameter.empty]
    try:
        made = source(**dict.fromkeys(given, str(tmp_path)))  # an empty folder
    except ExpungeError as error:
        assert str(tmp_path) in str(error) or "name at least one" in str(error) or "path=" in str(error)
    else:
        assert isinstance(made, Corpus) and "forget" in made


def hidden(*, forget: int = 3) -> Corpus:
    """A source whose setting nobody could give.

    Args:
        forget: a number, where the data settings have a text of this name.
    """
    return Corpus({"forget": zoo.corpus()["forget"][:forget]})


def test_a_setting_of_a_source_that_ours_would_hide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "hidden", hidden, raising=False)
    with pytest.raises(ExpungeError, match=r"setting forget \(whole number\).*Rename it.*, such as hidden_forget"):
        source_settings({"source": "zoo:hidden"})


@pytest.mark.parametrize("name", names("adapters"))
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_adapters_change_their_matrices_and_nothing_else(name: str, architecture: str) -> None:
    start = zoo.tiny_model(architecture)
    matrices = {f"{matrix}.weight" for matrix in target_matrices(start, "attention")}
    before = {key: value.clone() for key, value in start.state_dict().items()}
    settings: dict[str, Any] = {"rank": 2, "learning_rate": 1e-2, "epochs": 1, "batch_size": 3}
    settings |= {"epsilon": "auto"} if "epsilon" in catalogue.hyperparameters(resolve("adapters", name)) else {}
    run = expunge.unlearn(
        start, zoo.tokenizer(), zoo.corpus(), method="ihl", adapter=name, targets="attention", **settings
    )
    after = run.model.state_dict()
    assert set(after) == set(before)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and changed <= matrices
