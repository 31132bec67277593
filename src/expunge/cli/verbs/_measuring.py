"""The dry run of `evaluate`, and where evaluations lie."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.cli import preview
from expunge.cli.console import heading, table
from expunge.cli.inputs import corpus_of, template_of, tokenizer_of
from expunge.cli.verb import Call
from expunge.core import catalogue
from expunge.core.checks import ExpungeError
from expunge.core.manifest import FILE as MANIFEST

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.cli.verbs.evaluate import EvaluateConfig
    from expunge.core.batch import Encoded
    from expunge.data.corpus import Corpus
    from expunge.evaluation.probe import Probe
    from expunge.evaluation.suite import Entry, Suite


def output_folder(config: "EvaluateConfig") -> Path:
    """Where records go: the folder that was named, else `records` in the folder of a model that was made here."""
    if config.output is not None:
        return Path(config.output)
    if config.model is not None and made_here(config.model):
        return Path(config.model) / "records"
    raise ExpungeError(
        f"output is missing: the model '{config.model}' was not made by expunge, so say where its records go, such as "
        "output=runs/start/records"
    )


def made_here(source: str) -> bool:
    """Is it the folder of a run of ours, or of the adapter in one?"""
    return any((Path(source) / file).is_file() for file in (MANIFEST, "adapter.json"))


def lacks_records(source: str) -> bool:
    """Is this the folder of a model in which no records lie yet?"""
    from expunge.results.records import FILE

    folder = Path(source)
    held = any((place / FILE).is_file() for place in (folder, folder / "records"))
    return not held and any((folder / file).is_file() for file in ("config.json", "adapter_config.json"))


_ROLES = {"reference": "retain model", "start": "start model"}


def dry_run(call: "Call[EvaluateConfig]") -> int:
    """Show what would be measured, on how many rows, and what is missing for it; the exit code."""
    from expunge.evaluation.suite import without_substitutes
    from expunge.models.load import bits_under, check_loading, check_tokenizer_fits

    config, problems = call.config, preview.Problems()
    output = tokenizer = corpus = model = None
    if config.model is not None:
        with problems.collected():
            output = str(output_folder(config))
        with problems.collected():
            tokenizer = tokenizer_of(config.model, config)
        with problems.collected():
            corpus = corpus_of(config, call.resolved.more)
        with problems.collected():
            model = preview.skeleton(config.model, trust_remote_code=config.trust_remote_code)
            if tokenizer is not None:
                check_tokenizer_fits(model, tokenizer)
        with problems.collected():
            check_loading(config.model, device=config.device, bits=config.bits)
    _check_others(config, problems)
    preview.show_settings(call.resolved, {"output": (output, "folder of the model")})
    if tokenizer is None or corpus is None or model is None:
        return problems.concluded()
    with problems.collected():
        suite: Suite = catalogue.resolve("suites", config.suite)(list(corpus)).select(config.metrics)
        suite = without_substitutes(suite, corpus)
        _show_measures(suite, config, corpus, problems)
        encoded = _show_rows(suite, config, corpus, tokenizer)
        preview.show_memory(
            preview.evaluation_memory(model, config.dtype, config.bits or bits_under(str(config.model)))
        )
        preview.show_example(encoded, tokenizer, "First row")
    return problems.concluded()


def _check_others(config: "EvaluateConfig", problems: preview.Problems) -> None:
    from expunge.models.load import check_model_folder
    from expunge.results.foreign_logs import load_records

    for source in (config.reference, config.start):
        if source is not None:
            with problems.collected():
                check_model_folder(source) if lacks_records(source) else load_records(source)
    if config.records is not None:
        with problems.collected():
            load_records(config.records)


def _show_measures(suite: "Suite", config: "EvaluateConfig", corpus: "Corpus", problems: preview.Problems) -> None:
    from expunge.evaluation.suite import alternatives

    given = {role for role in ("reference", "start") if getattr(config, role) is not None}
    lacks: dict[str, str] = {}
    chosen = _chosen(suite, corpus, given)
    for name in dict.fromkeys(entry.name for entry in suite.entries):
        reasons = [_lacking(entry, corpus, given) for entry in suite.entries if entry.name == name]
        lacks[name] = "" if name in chosen else alternatives(reasons)
    for one in suite.derived:
        parts = [part for part in one.parts if lacks[part]]
        roles = [f"no {_ROLES[whose]} was given: {whose}=<folder>" for whose in one.needs if whose not in given]
        lacks[one.name] = f"it is made of {', '.join(parts)}" if parts else "; ".join(roles)
    by_rule = {name for name, entry in chosen.items() if entry.made}
    lines = [
        (name, f"missing: {missing}" if missing else f"can be had{', made by rule' * (name in by_rule)}")
        for name, missing in lacks.items()
    ]
    if config.metrics is not None:
        problems.found += [f"{name} cannot be had: {missing}." for name, missing in lacks.items() if missing]
    heading("Measures")
    table(("measure", "with these data"), lines)


def _chosen(suite: "Suite", corpus: "Corpus", given: Collection[str]) -> dict[str, "Entry"]:
    """By name, the first entry that can be had."""
    found: dict[str, Entry] = {}
    for entry in suite.entries:
        if entry.name not in found and not _lacking(entry, corpus, given):
            found[entry.name] = entry
    return found


def _lacking(entry: "Entry", corpus: "Corpus", given: Collection[str]) -> str:
    """Why a measure cannot be had from this corpus and these records of other models; empty where it can."""
    from expunge.evaluation.probe import lacking

    def reason(probe: "Probe", whose: str) -> str:
        if whose == "model":
            return lacking(corpus, probe)
        return "" if whose in given else f"no {_ROLES[whose]} was given: {whose}=<folder>"

    if entry.lacks is not None and (here := entry.lacks()):
        return here
    required = [text for view in entry.required() if (text := reason(view.probe, view.whose))]
    optional = [reason(view.probe, view.whose) for view in entry.views.values()]
    if entry.required() or "" in optional:
        return "; ".join(dict.fromkeys(required))
    return "; ".join(dict.fromkeys(optional))


def _show_rows(
    suite: "Suite", config: "EvaluateConfig", corpus: "Corpus", tokenizer: "PreTrainedTokenizerBase"
) -> "Encoded":
    from expunge.data.tokenizing import encode
    from expunge.evaluation.probe import completions, lacking, merged, prompt_of

    given = {role for role in ("reference", "start") if getattr(config, role) is not None}
    chosen = _chosen(suite, corpus, given)
    entries = [entry for entry in suite.entries if chosen.get(entry.name, entry) is entry]
    views = [view for entry in entries for view in entry.views.values() if view.whose == "model"]
    probes = [p for p in merged([view.probe for view in views]) if not lacking(corpus, p)]
    if not probes:
        raise ExpungeError(f"nothing of the suite '{config.suite}' can be measured on this corpus.")
    lines, first = [], None
    for probe in probes:
        examples = corpus[probe.split]
        looked_at = probe.rows(len(examples))
        asked = [
            examples[i].asking(text, prompt=prompt_of(examples[i], probe))
            for i in looked_at
            for text in completions(examples, i, probe)
        ]
        rows = encode(asked, tokenizer, template=template_of(config), max_length=config.max_length)
        first = first or rows[0]
        answers = str(len(looked_at)) if probe.generate else "-"
        lines.append((probe.name, str(len(rows)), str(sum(len(row.ids) for row in rows)), answers))
    heading("Data (split/asked/answer)")
    table(("shown", "rows scored", "tokens", "answers generated"), lines, numeric=(1, 2, 3))
    assert first is not None
    return first
