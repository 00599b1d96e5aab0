"""The k700-text command: registers the sub-commands and turns failures into exit codes."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

import k700_text
from k700_text.cli import annotations as annotations_command
from k700_text.cli import crawl as crawl_command
from k700_text.cli import demo as demo_command
from k700_text.cli import diff as diff_command
from k700_text.cli import manifest as manifest_command
from k700_text.cli import merge as merge_command
from k700_text.cli import prepare as prepare_command
from k700_text.cli import probe as probe_command
from k700_text.cli import sandbox as sandbox_command
from k700_text.cli import show as show_command
from k700_text.cli import stats as stats_command
from k700_text.cli import tokenizer as tokenizer_command
from k700_text.cli import validate as validate_command
from k700_text.cli.common import EXIT_INTERRUPTED, EXIT_USAGE, run_guarded, say
from k700_text.starting import end_interrupted, interrupt_surely

# Typer carries click inside or beside itself, depending on its version: only this way names both.
_UsageProblem: type[Exception] = typer.BadParameter.__bases__[0]

_TAKING_SEVERAL = ("--annotations", "--dump", "--ids", "--manifest")

app = typer.Typer(
    name="k700-text",
    help="Recovers web titles and audio availability of Kinetics-700 clips, and checks and serves them.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"k700-text {k700_text.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Recovers web titles and audio availability of Kinetics-700 clips, and checks and serves them."""


app.command("annotations")(annotations_command.annotations_command)
app.command("crawl")(crawl_command.crawl)
app.command("merge")(merge_command.merge)
app.command("manifest")(manifest_command.manifest)
app.command("validate")(validate_command.validate)
app.command("stats")(stats_command.stats)
app.command("diff")(diff_command.diff)
app.command("show")(show_command.show)
app.command("probe")(probe_command.probe)
app.command("prepare")(prepare_command.prepare)
app.command("sandbox")(sandbox_command.sandbox)
app.command("tokenizer")(tokenizer_command.tokenizer)
app.command("demo")(demo_command.demo)


def run() -> None:
    """Entry point of the console script."""
    # SIGTERM ends a command as Ctrl-C does: after saving what is finished. The second one ends it at once.
    interrupt_surely()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name or title that the locale cannot spell must not cost the whole answer.
        sys.stdout.reconfigure(errors="backslashreplace")
    # --debug may stand anywhere: a person adds it to the end of the line that has just failed.
    arguments = _repeated([argument for argument in sys.argv[1:] if argument != "--debug"]) or ["--help"]
    code = run_guarded(lambda: _invoke(arguments), debug="--debug" in sys.argv)
    if code == EXIT_INTERRUPTED:
        # All is saved: threads and processes that still work are not waited for.
        sys.stdout.flush()
        end_interrupted()
    sys.exit(code)


def _repeated(arguments: list[str]) -> list[str]:
    """Returns the arguments with ``--annotations A B`` as click wants it: ``--annotations A --annotations B``."""
    spelled: list[str] = []
    for position, word in enumerate(arguments):
        option = spelled[-2] if len(spelled) > 1 and spelled[-2] in _TAKING_SEVERAL else None
        is_further_value = option and not word.startswith("-") and arguments[position - 1] != option
        spelled += [option, word] if option and is_further_value else [word]
    return spelled


def _invoke(arguments: list[str]) -> None:
    command = typer.main.get_command(app)
    try:
        # standalone_mode=False: click would print in its own way and turn Ctrl-C into exit code 1.
        code = command.main(args=arguments, prog_name="k700-text", standalone_mode=False)
    except _UsageProblem as problem:
        format_message = getattr(problem, "format_message", problem.__str__)
        say(f"error: {format_message()} (see --help)")
        raise typer.Exit(EXIT_USAGE) from problem
    except typer.Abort as abort:
        raise KeyboardInterrupt from abort
    if code == EXIT_INTERRUPTED:
        # Newer typers turn Ctrl-C into this code by themselves, without a word.
        raise KeyboardInterrupt
    if isinstance(code, int) and code:
        raise typer.Exit(code)
