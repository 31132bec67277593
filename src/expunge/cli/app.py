"""The application: all verbs, and the way in."""

from collections.abc import Sequence

import typer

from expunge.cli import data, demo, evaluate, list, loku, report, train, unlearn
from expunge.cli.verb import forgiving_output, register

app = typer.Typer(
    help="expunge removes chosen knowledge from a language model and shows what that did.",
    epilog="expunge VERB --help lists the settings of a verb.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for verb in (demo.VERB, loku.VERB, train.VERB, unlearn.VERB, evaluate.VERB, report.VERB, list.VERB):
    register(app, verb)

data_app = typer.Typer(
    help="Look at data before anything is trained on it.", no_args_is_help=True, rich_markup_mode=None
)
register(data_app, data.SHOW_MASK)
app.add_typer(data_app, name="data")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process with an exit code.

    Args:
        arguments: words after the program's name; None takes those of the process.
    """
    forgiving_output()
    app(args=arguments, prog_name="expunge")
