"""The entry point: commands in, one paragraph and a meaningful exit code out.

Exit codes: 0 done · 2 config or data wrong · 3 the gate rejected the model ·
4 failed · 5 cancelled · 6 timed out · 7 nothing changed.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence

import typer
from rich.console import Console

from ytrainer_core import __version__
from ytrainer_core.cli import models, pipelines, stages, start_training
from ytrainer_core.cli.demo import demo
from ytrainer_core.cli.trigger import trigger
from ytrainer_core.errors import YTrainerError

CANCELLED = 5
FAILED = 4
_TYPERS_INTERRUPT = 130
"""What typer makes of Ctrl-C and SIGTERM before we see them."""

app = typer.Typer(
    name="ytrainer",
    help="A corpus goes in, a judged and registered language model comes out.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo)
stages.add_commands(app)
models.add_commands(app)
start_training.add_command(app)
app.command("trigger")(trigger)
app.add_typer(pipelines.app, name="pipeline")
app.add_typer(models.registry_app, name="registry")


def _version(show: bool) -> None:
    if show:
        print(f"ytrainer {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """A corpus goes in, a judged and registered language model comes out."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = ["--debug", *(word for word in words if word != "--debug")] if debug else words
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        code = app(words, standalone_mode=False)
    except YTrainerError as error:
        if debug:
            traceback.print_exc()
        for fault in error.faults:
            console.print(f"[bold red]error:[/] {_escape(fault)}")
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        console.print("cancelled")
        sys.exit(CANCELLED)
    except typer.Exit as leaving:
        sys.exit(leaving.exit_code)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's usage errors
            console.print(f"[bold red]error:[/] {_escape(error.format_message())}")
            sys.exit(error.exit_code)
        console.print(
            f"[bold red]error:[/] {type(error).__name__}: {_escape(str(error))}\n"
            "This is not an error that ytrainer knows. The same command with --debug shows where."
        )
        sys.exit(FAILED)
    if code == _TYPERS_INTERRUPT:
        console.print("cancelled")
        sys.exit(CANCELLED)
    sys.exit(code if isinstance(code, int) else 0)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
