"""`expunge verify`."""

from dataclasses import dataclass

from expunge.cli.console import say, table
from expunge.cli.inputs import source_settings
from expunge.cli.verb import Call, Verb
from expunge.cli.verbs.record import WRONG, forget_rows
from expunge.core.checks import ExpungeError
from expunge.data.data_config import CorpusConfig


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(CorpusConfig):
    """What is checked besides the record itself and the files."""

    key: str | None = None
    """Public ed25519 key in PEM of whom the record must be signed by; null: the key that the record names."""
    records: str | None = None
    """Folder in which the earlier records of the model line must be; null: those beside the run folder."""
    salt: str | None = None
    """File with the salt of the record, to check with `forget` that rows were in its scope."""


def verify(call: Call[VerifyConfig]) -> int:
    """Check an erasure record: its seal, signature, files and chain, and with salt and rows its scope. Offline.

    The exit code is 1 where something does not match.
    """
    config = call.config
    if len(call.positional) != 1:
        raise ExpungeError("name one run folder: expunge verify runs/npo")
    from expunge.record.verify import verify as stage

    found = stage(
        call.positional[0],
        key=config.key,
        records=config.records,
        salt=config.salt,
        corpus=forget_rows(config, call.resolved.extra),
    )
    table(("checked", "result", "note"), [(check.what, check.result, check.note) for check in found.checks])
    say()
    say(str(found))
    return 0 if found.holds else WRONG


VERB = Verb(
    name="verify",
    config=VerifyConfig,
    run=verify,
    extra_settings=source_settings,
    positional="RUN",
    note="Example: expunge verify runs/npo key=controller.pub.pem",
)
