"""`expunge record`: the erasure record of a run, and the list of records of a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.cli.console import heading, say, table
from expunge.cli.inputs import corpus_of, source_settings
from expunge.cli.verb import Call, Verb
from expunge.core.checks import ExpungeError
from expunge.core.format import number, one_line
from expunge.data.data_config import CorpusConfig

if TYPE_CHECKING:
    from expunge.data.corpus import Corpus

WRONG = 1
"""Exit code where something does not match."""


@dataclass(frozen=True, kw_only=True)
class RecordConfig(CorpusConfig):
    """What the record is about, and what it is made from."""

    request: str
    """Name of the request in your files, such as `REQ-17`; no personal data."""
    ground: str | None = None
    """Legal ground of the request, such as `GDPR Art. 17(1)(b)`."""
    received: str | None = None
    """Day on which the request came in, such as `2026-01-20`."""
    date: str | None = None
    """Day of the record, such as `2026-01-31`; null: today."""
    evaluation: str | None = None
    """Evaluation of the resulting model; null: the one next to the run folder, where there is one."""
    start: str | None = None
    """Evaluation of the start model: shows that it knew the rows, and what utility was lost; null: the one
    that the result's evaluation was compared with, or next to that model, of its weights and the same forget set."""
    attacked: str | None = None
    """Folder of what `expunge attack` found on the resulting model; null: the one next to the run folder
    (`<run>-attacked`), where there is one."""
    policy: str = "default"
    """What the verdict asks for: `default`, or a YAML file."""
    release: str | None = None
    """Who gets the model and with what access, such as `open weights`."""
    derivatives: tuple[str, ...] = ()
    """Files or folders of models made from the result, such as quantized ones, as `a,b`."""
    predecessor: str | None = None
    """Run folder with the record that this one follows; null: that of the start model, where it has one."""
    salt: str | None = None
    """File with the salt of the hashes, made where it is missing; null: `<run>.salt`, next to the run folder."""
    key: str | None = None
    """Private ed25519 key in PEM to sign with; null: the record is not signed. Needs the extra `record`."""


def record(call: Call[RecordConfig]) -> int:
    """Write the erasure record of a finished run: what was erased, what was tried against it, and a verdict.

    The record is `erasure.json` in the run folder, an in-toto statement about its files. `expunge record list FOLDER`
    lists the records of a folder and whether their chain holds.
    """
    config = call.config
    if len(call.positional) != 1:
        raise ExpungeError("name one run folder: expunge record runs/npo request=REQ-17")
    from expunge.record.record import record as stage

    made = stage(
        call.positional[0],
        request=config.request,
        received=config.received,
        ground=config.ground,
        date=config.date,
        corpus=forget_rows(config, call.resolved.extra),
        evaluation=config.evaluation,
        start=config.start,
        attacked=config.attacked,
        policy=config.policy,
        release=config.release,
        derivatives=config.derivatives,
        predecessor=config.predecessor,
        salt=config.salt,
        key=config.key,
        overwrite=call.overwrite,
    )
    told = made.predicate
    heading(f"{config.request}: {made.verdict}, policy {told['policy']['name']}")
    for reason in made.reasons:
        say(f"- {reason}")
    heading("Attacks")
    table(
        ("attack", "class", "access", "n", "facts leaking", "status"),
        [_row(entry) for entry in told["attacks"]],
        numeric=(3, 4),
    )
    if told["earlier_requests"]:
        heading("Earlier requests")
        table(
            ("request", "run", "rows", "attacked again", "leaking", "status"),
            [_earlier(entry) for entry in told["earlier_requests"]],
            numeric=(2, 3, 4),
        )
    heading("Residual risk")
    for sentence in told["residual_risk"]:
        say(sentence)
    heading("Limits")
    for sentence in told["limits"]:
        say(sentence)
    say(f"Test again by {told['test_again']['by']}, or earlier: {'; '.join(told['test_again']['or'])}.")
    say()
    say(told["proves"])
    for note in made.notes:
        say(f"note: {note}")
    measured = [name for name, digest in told["sources"].items() if digest != "not given"]
    say(f"made from: {', '.join(['the run', *measured])}")
    say(f"record: {made.folder / 'erasure.json'}{'' if told['signer'] else ', not signed'}")
    say(f"salt: {made.salt}. Keep it apart from what you hand on; whoever has it can test guesses of the rows.")
    return 0


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    result = entry["result"]
    leaking = number(result["leaking"]) if isinstance(result, dict) and "leaking" in result else "-"
    said = entry["status"] + (f": {one_line(entry['note'])[:60]}" if entry["status"] != "ran" and entry["note"] else "")
    return entry["name"], entry["class"], entry["access"], str(entry["n"]), leaking, said


def _earlier(entry: dict[str, Any]) -> tuple[str, ...]:
    said = entry["status"] + (f": {one_line(entry['note'])}" if entry["note"] else "")
    return entry["request"], entry["run"], str(entry["rows"]), str(entry["tested"]), str(entry["leaking"]), said


def forget_rows(config: CorpusConfig, more: dict[str, Any]) -> "Corpus | None":
    """The forget rows that the settings name; None where they name none."""
    if config.source == "files" and config.forget is None:
        return None
    return corpus_of(config, more, reads={"forget"})


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Nothing: a ledger has no settings."""


def listed(call: Call[ListConfig]) -> int:
    """List the erasure records of a folder, and say whether their chain holds."""
    from expunge.record.ledger import day_of, ledger

    if len(call.positional) != 1:
        raise ExpungeError("name the folder that holds the run folders: expunge record list runs")
    entries = ledger(call.positional[0])
    if not entries:
        say(f"no erasure record in {call.positional[0]}")
        return 0
    rows = []
    for entry in entries:
        told, before = entry.statement.predicate, entry.statement.predicate["lineage"]["predecessor"]
        rows.append(
            (
                str(entry.folder.relative_to(Path(call.positional[0]))),
                told["request"]["id"],
                day_of(entry.statement),
                told["verdict"]["text"],
                "-" if before is None else f"{before['requests'][-1]} ({before['run']})",
                f"changed: {entry.statement.fault}" if entry.statement.fault else _STATES[entry.state],
            )
        )
    table(("run", "request", "date", "verdict", "follows", "chain"), rows)
    broken = [entry for entry in entries if not entry.sound]
    say(f"the chain {'is broken' if broken else 'holds'}")
    return WRONG if broken else 0


_STATES = {"first": "first", "holds": "holds", "broken": "broken: the record before is not here unchanged"}

LIST = Verb(name="record list", config=ListConfig, run=listed, positional="FOLDER")


def _chosen(words: Sequence[str]) -> tuple[Verb[Any], Sequence[str]]:
    return (LIST, words[1:]) if words[:1] == ["list"] else (VERB, words)


VERB = Verb(
    name="record",
    config=RecordConfig,
    run=record,
    extra_settings=source_settings,
    flags=("overwrite",),
    positional="RUN",
    choose=_chosen,
    note="Example: expunge record runs/npo request=REQ-17 start=runs/start-records attacked=runs/npo-attacked",
)
