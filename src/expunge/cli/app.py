"""The application: all verbs, and the way in."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from expunge.cli.console import complain, say
from expunge.cli.verb import USER_ERROR, forgiving_output, register
from expunge.cli.verbs import (
    attack,
    chat,
    compare,
    data,
    demo,
    erase,
    evaluate,
    experiment,
    export,
    harness,
    list,
    localize,
    mask,
    patch,
    record,
    report,
    sweep,
    train,
    unlearn,
    verify,
    view,
)
from expunge.core.manifest import versions
from expunge.core.progress import first_process

app = typer.Typer(
    help="expunge removes chosen knowledge from a language model and measures the effect.",
    epilog="expunge VERB --help lists the settings of a verb.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> bool:
    if asked:
        say(f"expunge {versions().get('expunge', 'not installed')}")
        raise typer.Exit
    return asked


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


for verb in (
    demo.VERB,
    erase.VERB,
    train.VERB,
    localize.VERB,
    unlearn.VERB,
    evaluate.VERB,
    attack.VERB,
    chat.VERB,
    harness.VERB,
    compare.VERB,
    sweep.VERB,
    experiment.VERB,
    report.VERB,
    view.VERB,
    record.VERB,
    verify.VERB,
    export.VERB,
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
    # Read by PyTorch at its first allocation: large tensors in large pages take fewer page faults and, as they are
    # aligned, leave fewer holes in the heap.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    forgiving_output()
    if not first_process():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - for as long as the process lives
    try:
        code = app(args=arguments, prog_name="expunge", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        said = error.format_message()  # of the words before a verb was found: none, or no such command or option
        complain(said if said.startswith("Usage: ") else f"error: {said}\nexpunge --help lists the commands.")
        code = USER_ERROR
    sys.exit(code)
