"""`headrace camera`: cameras that are captured until they are removed, and a test of a camera's stream."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.environment import needs
from headrace.cli.gateway_client import GatewayClient, GatewayUrl, KeyFile
from headrace.cli.options import Json
from headrace.cli.output import SummaryGroup, print_json, print_lines, print_table, say
from headrace.runtime.errors import Exit

if TYPE_CHECKING:
    from headrace.gateway.capture.stream_probe import StageResult

app = typer.Typer(
    cls=SummaryGroup,
    name="camera",
    help="Capture RTSP cameras until they are removed, and test their streams.",
    no_args_is_help=True,
)
Url = Annotated[
    str,
    typer.Argument(metavar="URL", help="rtsp://[user:password@]host/path; '-' reads it from standard input."),
]
Site = Annotated[str | None, typer.Option(help="The camera's site. [default: that of the key or gateway]")]


def register(parent: typer.Typer) -> None:
    """Add the commands."""
    app.command()(add)
    app.command("test")(probe)
    app.command("list")(list_)
    app.command()(remove)
    parent.add_typer(app)


@needs("native")
def add(
    url: Url,
    *,
    name: Annotated[str, typer.Option(help="The camera's name: the source of its frames.")],
    site: Site = None,
    fps: Annotated[float | None, typer.Option(min=0.1, max=60, help="Frames per second. [default: 1]")] = None,
    gateway: GatewayUrl = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Capture a camera until it is removed, also across restarts; a lost stream is tried again.

    The login in the URL is stored encrypted.
    """
    body = {"rtsp_url": _url(url), "camera_id": name, "capture_mode": "continuous", "standing": True}
    body |= {key: value for key, value in (("site", site), ("fps", fps)) if value is not None}
    answer = GatewayClient.of(gateway, key_file).call("POST", "/api/v1/ingest/rtsp", body)
    if as_json:
        print_json(answer)
    say(f"{name} is captured from now on; `headrace camera list` shows its state, `headrace camera remove` ends it")


@needs("camera", "gateway")
def probe(
    url: Url,
    *,
    site: Site = None,
    as_json: Json = False,
) -> None:
    """Test a camera from this machine in stages: name, connection, login, codec, first frame; exit 1 at a fault."""
    import asyncio

    from headrace.gateway.capture.stream_probe import probe_stream
    from headrace.runtime.settings import load_settings

    results = asyncio.run(probe_stream(_url(url), load_settings(), site=site or "default"))
    if as_json:
        print_json({"stages": [{"stage": r.stage, "ok": r.ok, "detail": r.detail, "hint": r.hint} for r in results]})
    else:
        print_lines(map(_line, results))
    if not all(result.ok for result in results):
        raise typer.Exit(Exit.FAILED)


@needs("native")
def list_(*, site: Site = None, gateway: GatewayUrl = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """List the cameras that are captured, with the state of each."""
    answer = GatewayClient.of(gateway, key_file).call("GET", "/api/v1/captures", site=site)
    if as_json:
        print_json(answer)
        return
    print_table(
        ("camera", "site", "state", "fps", "frames", "last error", "url"),
        [
            (row["camera_id"], row["site"], row["state"], row["fps"], row["frames"], row["last_error"], row["url"])
            for row in answer["captures"]
        ],
    )


@needs("native")
def remove(
    name: Annotated[str, typer.Argument(help="The camera's name.")],
    *,
    site: Site = None,
    gateway: GatewayUrl = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Capture a camera no more; what was captured stays."""
    from urllib.parse import quote

    path = f"/api/v1/captures/{quote(name, safe='')}"
    GatewayClient.of(gateway, key_file).call("DELETE", path, site=site)
    if as_json:
        print_json({"camera_id": name, "removed": True})
    say(f"{name} is captured no more")


def _url(text: str) -> str:
    return sys.stdin.readline().strip() if text == "-" else text


def _line(result: "StageResult") -> str:
    hint = f"; {result.hint}" if result.hint else ""
    return f"{'ok    ' if result.ok else 'failed'}  {result.stage}: {result.detail}{hint}"
