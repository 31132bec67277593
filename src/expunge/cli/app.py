"""The application: all verbs, and the way in."""

import os
import sys
from collections.abc import Sequence

import typer

from expunge.cli.verb import forgiving_output, register
from expunge.cli.verbs import (
    attack,
    compare,
    data,
    demo,
    evaluate,
    experiment,
    harness,
    list,
    localize,
    mask,
    patch,
    report,
    train,
    unlearn,
)
from expunge.core.progress import first_process

app = typer.Typer(
    help="expunge removes chosen knowledge from a language model and measures the effect.",
    epilog="expunge VERB --help lists the settings of a verb.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for verb in (
    demo.VERB,
    train.VERB,
    localize.VERB,
    unlearn.VERB,
    evaluate.VERB,
    attack.VERB,
    harness.VERB,
    compare.VERB,
    experiment.VERB,
    report.VERB,
    list.VERB,
):
    register(app, verb)

data_app = typer.Typer(
    help="Look at data before anything is trained on it.", no_args_is_help=True, rich_markup_mode=None
)
register(data_app, data.SHOW_MASK)
app.add_typer(data_app, name="data")

mask_app = typer.Typer(help="Look at masks, and make more of them.", no_args_is_help=True, rich_markup_mode=None)
register(mask_app, mask.INFO)
register(mask_app, mask.SELECT)
register(mask_app, mask.COMPLEMENT)
app.add_typer(mask_app, name="mask")

patch_app = typer.Typer(
    help="Patches: what a run changed, applied to its base or taken back bit for bit.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for patch_verb in (patch.CREATE, patch.APPLY, patch.REVERT, patch.INFO):
    register(patch_app, patch_verb)
app.add_typer(patch_app, name="patch")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process with an exit code.

    Args:
        arguments: words after the program's name; None takes those of the process.
    """
    forgiving_output()
    if not first_process():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - for as long as the process lives
    app(args=arguments, prog_name="expunge")
