"""The `headrace` command: what it prints and its exit codes are a contract."""

import sys

import typer

from headrace.cli import (
    archive,
    catalog,
    demo,
    dlq,
    export,
    fsck,
    keys,
    label,
    platform,
    processes,
    publish,
    stack,
    urls,
)
from headrace.cli.output import SummaryGroup, say
from headrace.runtime.errors import Exit, HeadraceError

app = typer.Typer(
    name="headrace",
    cls=SummaryGroup,
    # Rich takes 0.2 s to draw frames around the help.
    rich_markup_mode=None,
    help="What cameras and devices hand over is stored once, catalogued, and announced once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
stack.register(app)
processes.register(app)
publish.register(app)
catalog.register(app)
dlq.register(app)
fsck.register(app)
archive.register(app)
export.register(app)
label.register(app)
platform.register(app)
keys.register(app)
urls.register(app)
demo.register(app)


def main() -> None:
    """Run the command; an error is one sentence on standard error and an exit code, never a traceback."""
    try:
        app()
    except HeadraceError as error:
        say(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(Exit.OK)
    except KeyboardInterrupt:
        sys.exit(130)
