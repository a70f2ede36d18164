"""The `headrace` command: what it prints and its exit codes are a contract."""

import sys

import typer

from headrace.cli import (
    archive,
    audit,
    camera,
    catalog,
    completion,
    demo,
    dlq,
    env,
    erase,
    export,
    fsck,
    keys,
    label,
    logs,
    platform,
    processes,
    publish,
    recover,
    replay,
    retention,
    sites,
    stack,
    topics,
    urls,
)
from headrace.cli.output import SummaryGroup, say
from headrace.runtime.errors import Exit, HeadraceError

app = typer.Typer(
    name="headrace",
    cls=SummaryGroup,
    # Rich adds 0.2 s to every `--help`.
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(*, version: completion.Version = False) -> None:
    """Ingest what cameras and devices publish: store it once, catalogue it, and announce it once."""


stack.register(app)
processes.register(app)
app.command()(env.env)
app.command()(logs.logs)
publish.register(app)
catalog.register(app)
dlq.register(app)
fsck.register(app)
archive.register(app)
export.register(app)
label.register(app)
platform.register(app)
keys.register(app)
camera.register(app)
audit.register(app)
recover.register(app)
erase.register(app)
retention.register(app)
urls.register(app)
replay.register(app)
topics.register(app)
sites.register(app)
demo.register(app)
app.command()(completion.completion)


def main() -> None:
    """Run the command; report an error on standard error with an exit code, without a traceback."""
    completion.prepare_completion()
    try:
        app(prog_name=completion.NAME)
    except HeadraceError as error:
        say(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(Exit.OK)
    except KeyboardInterrupt:
        sys.exit(130)
