"""`expunge export`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from expunge.cli.console import heading, say, table
from expunge.cli.inputs import corpus_of, source_settings
from expunge.cli.preview import Problems, show_settings
from expunge.cli.verb import Call, Verb
from expunge.core.checks import ExpungeError, require
from expunge.core.format import in_units, number
from expunge.core.progress import shown
from expunge.data.data_config import CorpusConfig

if TYPE_CHECKING:
    from expunge.data.corpus import Corpus
    from expunge.release.plan import Plan


@dataclass(frozen=True, kw_only=True)
class ExportConfig(CorpusConfig):
    """What is handed on, in which form, and where to."""

    to: Literal["folder", "hub"] = "folder"
    """`folder`, or `hub`: to a repository on a model hub too."""
    output: str | None = None
    """Folder of the release; with `to=hub` it may be null, and nothing is kept here."""
    form: Literal["merged", "adapter", "gguf"] = "merged"
    """`merged`: a whole model in safetensors; an adapter is merged into its start model. `adapter`: of a run that holds
    one. `gguf`: one file for llama.cpp and its relatives; needs the extra `gguf`."""
    dtype: Literal["auto", "f32", "f16", "bf16", "q8_0"] = "auto"
    """Type of the weights of a GGUF file; `auto`: the one that they are stored in."""
    check: Literal["logprobs", "none"] = "logprobs"
    """`logprobs`: a GGUF file is kept only if it gives answers of the forget and the retain set the probability that
    the model gives them."""
    rows: int | None = 256
    """At most this many rows of each set are compared; null: all."""
    evaluation: str | None = None
    """Evaluation of the resulting model, for the card; null: the one next to the run folder, where there is one."""
    start: str | None = None
    """Evaluation of the start model, for the card."""
    reference: str | None = None
    """Evaluation of a model that never saw the forget set, for the card."""
    attacked: str | None = None
    """Folder of what `expunge attack` found, for the card; null: `<run>-attacked`, where it is there."""
    name: str | None = None
    """What the model is called; null: as the run folder is."""
    base_model: str | None = None
    """Name of the start model on a hub, such as `user/model`; null: the one that it was loaded by, where it came from
    a hub."""
    license: str | None = None
    """License, such as `apache-2.0`; null: that of the start model, where its card or configuration names one."""
    repo: str | None = None
    """With `to=hub`, the repository: `user/name`. It is made where it is missing."""
    private: bool = True
    """A repository that is made is for its owner alone."""
    revision: str | None = None
    """Branch of the repository; null: the main one."""

    def __post_init__(self) -> None:
        """Check that a hub has a repository, and a folder a name."""
        require(self.to != "hub" or self.repo is not None, "to=hub needs a repository: repo=user/name")
        require(self.to == "hub" or self.repo is None, "repo is for to=hub: add that, or leave repo out.")
        require(self.to != "folder" or self.output is not None, "name the folder of the release: output=release")


def export(call: Call[ExportConfig]) -> int:
    """Write what of a run is handed on, with a model card: into a folder, or to a model hub.

    It holds weights, configuration, tokenizer, card and erasure record; never data, answers, checkpoints, salts or
    paths of this machine. A GGUF file is compared with the model, answer by answer, before it is kept.
    """
    if len(call.positional) != 1:
        raise ExpungeError("name one run folder: expunge export runs/npo output=release")
    if call.dry_run:
        return _preview(call)
    from expunge.release.export import export as stage

    with shown() as report:
        made = stage(call.positional[0], **_arguments(call), progress=report)
    table(("file", "SHA-256"), [(name, digest.partition(":")[2]) for name, digest in made.files.items()])
    for one in made.parity:
        say(
            f"{one.split}: {len(one.rows)} of {one.of} rows compared, largest difference {number(one.largest)} "
            f"(allowed {number(one.tolerance)})"
        )
    for note in made.notes:
        say(f"note: {note}")
    if made.folder is not None:
        say(f"release: {made.folder}")
    if made.url is not None:
        say(f"on the hub: {made.url}")
    return 0


def _arguments(call: Call[ExportConfig]) -> dict[str, Any]:
    """What the stage takes."""
    config = call.config
    data = CorpusConfig.__dataclass_fields__
    given = {name: getattr(config, name) for name in ExportConfig.__dataclass_fields__ if name not in (*data, "to")}
    return {**given, "corpus": _corpus(call), "overwrite": call.overwrite}


def _corpus(call: Call[ExportConfig]) -> "Corpus | None":
    """The rows that the settings name; None where they name none."""
    config = call.config
    if config.source == "files" and config.forget is None and config.retain is None:
        return None
    return corpus_of(config, call.resolved.extra, reads={"forget", "retain"})


def _preview(call: Call[ExportConfig]) -> int:
    problems = Problems()
    show_settings(call.resolved, {})
    with problems.collected():
        from expunge.release.plan import plan_export

        _show(plan_export(call.positional[0], **_arguments(call)), call.config)
    return problems.concluded()


def _show(made: "Plan", config: ExportConfig) -> None:
    heading("Files")
    sizes = [(name, "-" if size is None else in_units(size)) for name, size in made.sizes.items()]
    table(("file", "size"), sizes, numeric=(1,))
    known = sum(size for size in made.sizes.values() if size is not None)
    say(f"about {in_units(known)} in all")
    heading("Destination")
    if made.output is not None:
        say(f"folder {made.output}")
    if made.destination is not None and made.found is not None:
        from expunge.release.hub import endpoint

        there = "a new repository" if not made.found.exists else f"a repository with {len(made.found.files)} files"
        kept = "private" if made.destination.private else "public"
        say(f"{made.destination.repo} on {endpoint()}: {there}" + ("" if made.found.exists else f", {kept}"))
    heading("Card")
    evidence = made.evidence
    told: dict[str, Any] = {"evaluation": evidence.evaluation, "start": evidence.start, "reference": evidence.retain}
    told |= {"attacks": evidence.attacked, "erasure record": evidence.record}
    for name, found in told.items():
        say(f"{name}: {'yes' if found is not None else 'none'}")
    say(f"base model: {made.base_model or 'not named'}; license: {made.license or 'not named'}")
    if made.rows:
        sets = (f"{split} {len(some.positions)} of {some.of} rows" for split, some in made.rows.items())
        say(f"the GGUF file is compared with the model on {', '.join(sets)}; their tokens are the same")
    for note in made.notes:
        say(f"note: {note}")


VERB = Verb(
    name="export",
    config=ExportConfig,
    run=export,
    extra_settings=source_settings,
    flags=("dry_run", "overwrite"),
    positional="RUN",
    note="Example: expunge export runs/npo output=release\n\nGGUF: expunge export runs/npo form=gguf dtype=q8_0 "
    "output=release-gguf\n\nTo a hub: expunge export runs/npo to=hub repo=user/npo base_model=user/start",
)
