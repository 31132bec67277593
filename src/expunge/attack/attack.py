"""Attack a finished model, and the same way one that never knew: what counts is what comes out above that."""

import inspect
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.budget import Budget, asked, budget_of
from expunge.attack.measuring import Asker
from expunge.core import catalogue
from expunge.core.checks import ExpungeError, path_of, require_between, require_names, require_type, unknown
from expunge.core.distributed import barrier, is_main, join, sharded
from expunge.core.manifest import jsonable
from expunge.core.output import check_output_file
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus, check_corpus
from expunge.data.template import Template, dated
from expunge.models.fingerprint import model_fingerprint, tokenizer_fingerprint
from expunge.models.finite import check_finite
from expunge.models.load import check_loaded
from expunge.models.placement import refuse_spread
from expunge.results.attacked import FILE, MERGED, NOTHING, PLAIN, Attacked, CannotRun, Column, Control, Leak
from expunge.results.places import check_measured
from expunge.results.texts import Texts, check_texts, text_hash

DEFAULT = ("quantize", "prune", "relearn", "prompts", "sampling", "lens")
"""Those that need no further model and say something of every single fact."""
THRESHOLD = 0.2
WORK = "all attacks, forward passes"
"""What the progress of an attack counts, so that the time left is that of the work left."""
COMMON = ("template", "max_length", "seed", "progress")


def attack(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    attacks: Sequence[str] = DEFAULT,
    control: PreTrainedModel | PeftModel | Attacked | Literal["nothing"] | None = None,
    control_is: Control = "retain model",
    threshold: float = THRESHOLD,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    template: Template | None = None,
    max_length: int = 512,
    seed: int = 0,
    label: str = "model",
    texts: Texts = "keep",
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Attacked:
    """Try to draw the forget set out of a model, and say what came out above what never-knew gives.

    Processes that a launcher started share each attack's rows, and the steps of its training.

    Every attack runs with the same settings and seeds on a control: a model that never saw the forget set, or the
    result of an earlier attack on it. Without one, the model itself is asked for untaught facts: the forget set with
    its answers exchanged among the questions.

    Args:
        model: the finished model; afterwards it is bit for bit what it was. With adapters it is asked as it is and with
            them merged into a copy, which is then attacked.
        tokenizer: its tokenizer.
        corpus: holds `forget`, and `retain` for attacks that use it.
        attacks: names, or `package.module:function`.
        control: the retain model, another model that never saw the forget set, or what `attack` returned for one; None:
            untaught facts; `nothing`: no control, at half the cost, for a result that is to be the control of others.
        control_is: what the control is, for readers.
        threshold: recovery above the control from which on a fact counts as leaking, in [0, 1].
        settings: by attack, its own settings: `{"relearn": {"steps": 20}}`.
        template: how questions are framed.
        max_length: longest row in tokens.
        seed: of everything that is drawn.
        label: what to call the model.
        texts: what is saved of questions, answers, prompts and what the model said: the texts, their SHA-256 (`hash`),
            or the SHA-256 of the questions alone (`drop`).
        output_dir: folder for `attacked.json` and a drawing, `leak_map.png`; None: nothing is written.
        overwrite: replace an earlier result there.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: an unknown attack or setting, a corpus without a forget set, a control of other facts, or an
            output in use.

    Source: why a control: arXiv:2502.15836.
    """
    join()
    require_between("threshold", threshold, 0, 1)
    check_loaded(model, tokenizer)
    for one in (model, control):
        if isinstance(one, nn.Module):
            refuse_spread(one, "an attack")
            _refuse_sharded(one)
    check_corpus(corpus)
    check_forget(corpus)
    require_type("seed", seed, int, "a whole number")
    check_texts(texts)
    ways = chosen(attacks, settings or {})
    if output_dir is not None:
        check_measured(path_of("output_dir", output_dir))
        check_output_file(Path(output_dir) / FILE, overwrite=overwrite)
    facts = corpus["forget"]
    questions = tuple(fact.question for fact in facts)
    template = dated_like(control, template, tokenizer)
    about = told(ways, template=template, max_length=max_length, seed=seed)
    _check_given_control(control, corpus, about)
    check_finite(model)
    plain = _merged(model)
    sides = _Sides(
        tokenizer=tokenizer,
        model=plain,
        control=_merged(control) if isinstance(control, PreTrainedModel | PeftModel) else plain,
        as_is=(model, control if isinstance(control, PreTrainedModel | PeftModel) else model),
        earlier=control if isinstance(control, Attacked) else None,
        alone=control == NOTHING,
        untaught=control is None,
        corpus=corpus,
        other_corpus=corpus if control is not None else untaught(corpus, seed),
        common={"template": template, "max_length": max_length, "seed": seed},
        threshold=threshold,
        label=label,
        progress=progress,
    )
    columns: list[Column] = []
    forms: list[tuple[str, Any, dict[str, Any]]] = [(PLAIN, _plain, {})]
    if isinstance(model, PeftModel):
        forms.append((MERGED, _plain, {"name": MERGED}))
    all_ways = [*forms, *ways]
    stated = budgets(ways, corpus, seed=seed, adapters=isinstance(model, PeftModel))
    work = sides.work({name: function for name, function, _ in all_ways}, stated)
    done = 0
    for name, function, own in all_ways:
        if progress:
            progress(WORK, done, sum(work.values()), name)
        columns += sides.columns(name, function, own)
        done += work[name]
    if progress:
        progress(WORK, done, done, "")
    found = Attacked(
        columns=tuple(columns),
        questions=questions,
        answers=tuple(fact.completion for fact in facts),
        control=None if control == NOTHING else control_is if control is not None else "untaught facts",
        label=label,
        settings=about,
        inputs={
            "model": model_fingerprint(plain),
            **_control_input(control, sides.control),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            **corpus.fingerprints(),
        },
    )
    if output_dir is not None and is_main():
        from expunge.report import leak_map
        from expunge.report.figures import save_png

        saved = found.with_texts(texts)
        drawing = Path(output_dir) / leak_map.FILE
        drawing.unlink(missing_ok=True)  # first, so that a kill leaves no drawing of another result
        saved.save(output_dir)
        save_png(leak_map.leak_map(saved), drawing)
    barrier()
    return found


def _refuse_sharded(model: nn.Module) -> None:
    if sharded(model):
        raise ExpungeError(
            "an attack changes weights in place, and this model's are divided among processes. Load the whole model in "
            "each (sharded=false); they share the rows all the same."
        )


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """The model and its control, which are attacked alike."""

    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    control: PreTrainedModel
    """The other model; the model itself where it is asked for untaught facts, or compared with an earlier result."""
    as_is: tuple[Any, Any]
    """Both with their adapters beside the weights, as the form `plain` asks them."""
    earlier: Attacked | None
    """What an earlier attack gave for the control, which then is not attacked again."""
    alone: bool
    """Is there no control?"""
    untaught: bool
    """Is the control the model itself, asked for untaught facts?"""
    corpus: Corpus
    other_corpus: Corpus
    """What the control is asked."""
    common: Mapping[str, Any]
    threshold: float
    label: str
    progress: Progress | None

    def columns(self, name: str, function: Any, own: Mapping[str, Any]) -> list[Column]:
        """A column for each form of an attack; one without values where it cannot be run."""
        began = time.monotonic()
        if lacking := _lacking(function, self.corpus):
            return [self._not_run(name, lacking)]
        model, other = self.as_is if name == PLAIN else (self.model, self.control)
        settings = {**self.common, **own}
        try:
            leaks = drawn_out(function, model, self.tokenizer, self.corpus, settings, under(self.progress, self.label))
            controls = self._controls(function, other, settings)
        except CannotRun as reason:
            return [self._not_run(name, str(reason))]
        seconds = round(time.monotonic() - began, 2)
        needing = _needing_model(function) if self.untaught else ""
        return [
            Column(
                name=leak.name,
                leak=None if leak.not_run else leak,
                control=None if leak.not_run else controls.get(leak.name),
                threshold=self.threshold,
                note=leak.not_run or (needing if leak.needs_control else ""),
                seconds=seconds / len(leaks),
            )
            for leak in leaks
        ]

    def work(self, functions: Mapping[str, Any], stated: Mapping[str, Budget | str | None]) -> dict[str, int]:
        """By attack, the forward passes that model and control take by its budget.

        One whose budget is unknown counts as the mean of the others, and one that cannot be run as nothing.
        """
        known = {name: one.passes for name, one in stated.items() if isinstance(one, Budget)}
        usual = round(fmean(known.values()))
        return {
            name: (0 if isinstance(stated[name], str) else known.get(name, usual)) * (2 if self._both(function) else 1)
            for name, function in functions.items()
        }

    def _both(self, function: Any) -> bool:
        """Is the control attacked, too?"""
        return self.earlier is None and not self.alone and not (self.untaught and _needing_model(function))

    def _controls(self, function: Any, other: Any, settings: Mapping[str, Any]) -> dict[str, Leak | None]:
        """What the same attack draws out of the control, by form."""
        if self.earlier is not None:
            known = {column.name: column.leak for column in self.earlier.columns}
            return {MERGED: known.get(PLAIN), **known}
        if not self._both(function):
            return {}
        run = drawn_out(function, other, self.tokenizer, self.other_corpus, settings, under(self.progress, "control"))
        return {leak.name: leak for leak in run}

    def _not_run(self, name: str, why: str) -> Column:
        return Column(name=name, leak=None, control=None, threshold=self.threshold, note=why)


def untaught(corpus: Corpus, seed: int = 0) -> Corpus:
    """The corpus with the answers of the forget set exchanged among its questions.

    These are facts of the same form that were never taught. No question keeps its answer. What was made for the true
    answer (paraphrases of it, wrong answers) is left out.
    """
    facts = corpus["forget"]
    if len({fact.completion for fact in facts}) < 2:
        raise ExpungeError(
            "untaught facts need two or more different answers in the forget set; name a control: a model that never "
            "saw it."
        )
    order = list(range(len(facts)))
    random.Random(seed).shuffle(order)
    answers = {here: facts[there].completion for here, there in zip(order, [*order[1:], order[0]], strict=True)}
    for i, fact in enumerate(facts):  # equal answers of two facts: take any other
        if answers[i] == fact.completion:
            j = next(j for j in order if fact.completion not in (answers[j], facts[j].completion))
            answers[i], answers[j] = answers[j], answers[i]
    exchanged = tuple(
        replace(fact, completion=answers[i], paraphrased=None, perturbed=()) for i, fact in enumerate(facts)
    )
    return Corpus({**corpus.splits, "forget": exchanged}, f"{corpus.name}, untaught")


def check_forget(corpus: Corpus) -> None:
    """Raise where there is nothing to ask for."""
    if "forget" not in corpus:
        raise ExpungeError(f"an attack asks for the forget set; the corpus '{corpus.name}' holds {', '.join(corpus)}.")


def _check_given_control(control: Any, corpus: Corpus, about: Mapping[str, Any]) -> None:
    if isinstance(control, Attacked):
        check_control(control, corpus)
        check_same_settings(control, about)
    elif control not in (None, NOTHING) and not isinstance(control, PreTrainedModel | PeftModel):
        raise ExpungeError(
            f"control must be a loaded model, an earlier result of attack, '{NOTHING}', or None; got {control!r:.80}. "
            "Load it first: expunge.load_model(<folder or id>)."
        )


def check_control(control: Attacked, corpus: Corpus) -> None:
    """Raise where an earlier attack asked for other facts than the forget set of a corpus."""
    if control.asked != tuple(text_hash(fact.question) for fact in corpus["forget"]):
        raise ExpungeError("the control was attacked with other facts: attack it on the same forget set.")


def told(
    ways: Sequence[tuple[str, Any, Mapping[str, Any]]], *, template: Template, max_length: int, seed: int
) -> dict[str, Any]:
    """What a result says of how it was made: every attack with the settings that it was given, and what all share."""
    own = {name: given for name, _, given in ways}
    return jsonable({"attacks": own, "seed": seed, "max_length": max_length, "template": template.about})


def dated_like(control: Any, template: Template | None, tokenizer: PreTrainedTokenizerBase) -> Template:
    """The template with a fixed date where it writes one: that of the control, if it was attacked earlier."""
    before = control.settings.get("template", {}).get("date") if isinstance(control, Attacked) else None
    return dated(template, tokenizer, like=before)


def check_same_settings(control: Attacked, about: Mapping[str, Any]) -> None:
    """Raise where an earlier attack was made otherwise than this one: what came out could not be compared."""
    before = control.settings
    other = [name for name in ("seed", "max_length", "template") if before.get(name, about[name]) != about[name]]
    earlier = before.get("attacks", {})
    other += [name for name, own in about["attacks"].items() if earlier.get(name, own) != own]
    if other:
        raise ExpungeError(
            f"the control was attacked with other settings ({', '.join(other)}): attack it with those of this attack."
        )


def _control_input(control: Any, other: PreTrainedModel) -> dict[str, str]:
    """The fingerprint of the control's weights; nothing where there is none."""
    if isinstance(control, Attacked):
        return {"control": control.inputs["model"]} if "model" in control.inputs else {}
    return {} if control in (None, NOTHING) else {"control": model_fingerprint(other)}


def chosen(attacks: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Any, dict[str, Any]]]:
    """Name, function and own settings of each attack, checked."""
    require_names("attacks", attacks)
    require_type("settings", settings, dict, "a mapping of attacks to their settings")
    if strange := set(settings) - set(attacks):
        raise unknown("attack of this call (for settings=)", strange.pop(), attacks)
    return [(name, *_way(name, settings.get(name, {}))) for name in attacks]


def budgets(
    ways: Sequence[tuple[str, Any, Mapping[str, Any]]], corpus: Corpus, *, seed: int = 0, adapters: bool = False
) -> dict[str, Budget | str | None]:
    """By attack, what it computes at most on one model, why it cannot be run, or None where it does not say.

    Args:
        ways: what `chosen` gave.
        corpus: holds `forget`.
        seed: of everything that is drawn.
        adapters: does the model have adapters, so that it is asked with them merged, too?
    """
    names = [PLAIN, MERGED] if adapters else [PLAIN]
    found: dict[str, Budget | str | None] = {name: asked([name], len(corpus["forget"])) for name in names}
    for name, function, own in ways:
        try:
            found[name] = _lacking(function, corpus) or budget_of(function, corpus, {"seed": seed, **own})
        except CannotRun as reason:
            found[name] = str(reason)
    return found


def _way(name: str, own: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The function of an attack and its settings, checked."""
    function = catalogue.resolve("attacks", name)
    known = catalogue.hyperparameters(function)
    for setting in own:
        if setting not in known or setting in COMMON:
            raise unknown(f"setting of {name}", setting, set(known) - set(COMMON))
    if missing := [k for k, v in known.items() if v is inspect.Parameter.empty and k not in own]:
        raise ExpungeError(f"the attack {name} needs {', '.join(missing)}, which has no default.")
    return function, dict(own)


def _lacking(function: Any, corpus: Corpus) -> str:
    """Why an attack cannot be run on a corpus; empty where it can. It says so in `NEEDS` of its module."""
    needed = getattr(inspect.getmodule(function), "NEEDS", ())
    lacking = [split for split in needed if split not in corpus]
    return f"it needs the {', '.join(lacking)} set, which the corpus lacks" if lacking else ""


def _needing_model(function: Any) -> str:
    """What to do where untaught facts are no control for an attack; empty where they are one.

    It says so with `NEEDS_MODEL` in its module.
    """
    needs = getattr(inspect.getmodule(function), "NEEDS_MODEL", False)
    cure = "untaught facts are no control for it; name a model that never saw the forget set: control=<model>"
    return cure if needs else ""


def drawn_out(
    function: Any,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    settings: Mapping[str, Any],
    progress: Progress | None,
) -> list[Leak]:
    """What one attack draws out of one model, without a control; of the settings it is given those that it takes."""
    known = catalogue.hyperparameters(function)
    given = {k: v for k, v in {**settings, "progress": progress}.items() if k in known}
    return list(function(model, tokenizer, corpus, **given))


def _plain(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    name: str = PLAIN,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
) -> list[Leak]:
    """The forget set asked as it is."""
    return [Asker(tokenizer, template, max_length, progress=progress).known(model, name, corpus["forget"])]


def _merged(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """A plain model: adapters are merged into a copy."""
    if not isinstance(model, PeftModel):
        return model
    from copy import deepcopy

    from expunge.models.lowrank import merged

    return merged(deepcopy(model))
