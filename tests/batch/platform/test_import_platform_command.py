"""The command: its options, what it prints, its exit codes, and frames that go through a real publisher."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headrace.batch.platform.boxes import Generation
from headrace.batch.platform.factory import PlatformCredentials, annotation_login
from headrace.cli import platform
from headrace.cli.app import app
from headrace.producers import Publisher
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from tests.batch.platform.alert_server import FIRST_DAY, PlatformServer
from tests.batch.platform.annotation_server import AnnotationServer
from tests.batch.platform.api_server import Fault, served
from tests.producers.conftest import MOCK

DAY = str(FIRST_DAY.date())
PROGRAM = """
import sys
from headrace.cli.app import main
from headrace.producers import Publisher
Publisher.from_settings = lambda *_, **__: Publisher("mock", client={"test.mock.num.brokers": 1})
sys.argv = ["headrace", "import-platform", *sys.argv[1:]]
main()
"""


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[PlatformServer, AnnotationServer]]:
    """Both APIs; Kafka is librdkafka's own mock cluster, which speaks the real protocol."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"LOGIN": "reader", "PASSWORD": "reader-secret"}.items():
        monkeypatch.setenv(f"PLATFORM_{name}", value)
        monkeypatch.setenv(f"PLATFORM_ADMIN_{name}", value.replace("reader", "boss"))
    settings = Settings(_env_file=None, state_dir=tmp_path, url_networks="127.0.0.0/8")
    monkeypatch.setattr(platform, "client_settings", lambda: settings)
    monkeypatch.setattr(Publisher, "from_settings", lambda _settings, **_: Publisher("mock", client=MOCK))
    made = PlatformServer(Generation.FIRST), AnnotationServer(Generation.FIRST)
    with served(*made):
        yield made


def run(servers: tuple[PlatformServer, AnnotationServer] | None, *args: str) -> Result:
    urls: list[Any] = []
    if servers is not None:
        urls = ["--url-api-platform", servers[0].url, "--url-api-annotation", servers[1].url]
    return CliRunner().invoke(app, ["import-platform", *urls, *args])


@pytest.mark.server
def test_it_ends_with_the_statistics(servers: tuple[PlatformServer, AnnotationServer]) -> None:
    servers[0].faults = [Fault("GET /sequences/3/", 500)]
    ended = run(servers, "--date-from", DAY, "--date-end", DAY, "--loglevel", "error")
    assert ended.stdout == (
        "Processing completed!\nFinal Statistics:\n  Total sequences: 5\n  Successful sequences: 4\n"
        "  Failed sequences: 1\n  Annotations created: 4\n"
    )
    assert ended.exit_code == 1
    assert f"{DAY}: 5 fetched = 4 imported, 0 skipped, 1 failed: not complete" in ended.stderr
    assert run(servers, "--date-from", DAY, "--date-end", DAY).exit_code == 0


@pytest.mark.server
def test_json_says_the_same_and_shows_what_a_dry_run_would_do(servers: tuple[PlatformServer, AnnotationServer]) -> None:
    ended = run(servers, "--date-from", DAY, "--date-end", DAY, "--dry-run", "--json")
    report = json.loads(ended.stdout.splitlines()[-1])
    assert ended.exit_code == 0
    assert (report["total_sequences"], report["annotations_created"], len(report["would_annotate"])) == (5, 5, 5)
    assert report["days"][0]["adds_up"]
    assert report["annotations_planned"] == 5
    assert servers[1].asked == ["POST /auth/login", "GET /openapi.json"]


@pytest.mark.server
def test_on_a_terminal_there_are_bars_and_what_is_logged_stands_above_them(
    servers: tuple[PlatformServer, AnnotationServer], tmp_path: Path
) -> None:
    servers[0].faults = [Fault("GET /sequences/3/", 500)]
    ours, theirs = pty.openpty()
    options = ["--date-from", DAY, "--date-end", DAY, "--url-api-platform", servers[0].url]
    environment = os.environ | {
        "HEADRACE_URL_NETWORKS": "127.0.0.0/8",
        "HEADRACE_STATE_DIR": str(tmp_path / "another"),
        "TERM": "xterm",
        "COLUMNS": "100",
    }
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *options, "--url-api-annotation", servers[1].url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment,
    ) as process:
        os.close(theirs)
        seen = b""
        with suppress(OSError):  # which says that the terminal's other end is closed
            while part := os.read(ours, 65_536):
                seen += part
        os.close(ours)
        assert process.stdout is not None
        printed = process.stdout.read().decode()
    shown = seen.decode()
    assert process.returncode == 1, shown
    assert printed.startswith("Processing completed!\n")
    assert "\x1b" not in printed
    assert "━" in shown
    assert all(f"{what} " in shown for what in ("sequences", "frames"))
    logged = [line for line in shown.replace("\r", "\n").split("\n") if "sequence 3" in line and "refused" in line]
    assert logged
    assert not any("━" in line for line in logged)


@pytest.mark.server
def test_a_list_of_sequences_is_read_from_the_option_or_from_a_file(
    servers: tuple[PlatformServer, AnnotationServer], tmp_path: Path
) -> None:
    listed = tmp_path / "sequences.txt"
    listed.write_text("4, 2\n1")
    for given, limit, ids in (("2,3", "0", {2, 3}), (str(listed), "2", {4, 2})):
        chosen = ["--sequence-list", given, "--max-sequences", limit]
        ended = run(servers, "--date-from", DAY, "--date-end", DAY, *chosen, "--dry-run", "--json")
        report = json.loads(ended.stdout.splitlines()[-1])
        assert {item["sequence_id"] for item in report["would_annotate"]} == ids


@pytest.mark.parametrize("given", ["1,two", " , "])
def test_a_list_of_sequences_that_is_none_is_refused(given: str) -> None:
    ended = run(None, "--date-from", DAY, "--sequence-list", given)
    assert isinstance(ended.exception, HeadraceError)
    assert ended.exception.exit_code == 2


@pytest.mark.server
def test_debug_shows_requests_and_what_becomes_of_a_sequence(
    servers: tuple[PlatformServer, AnnotationServer], tmp_path: Path
) -> None:
    options = ["--date-from", DAY, "--date-end", DAY, "--url-api-platform", servers[0].url]
    environment = os.environ | {"HEADRACE_URL_NETWORKS": "127.0.0.0/8", "HEADRACE_STATE_DIR": str(tmp_path / "b")}
    command = [sys.executable, "-c", PROGRAM, *options, "--url-api-annotation", servers[1].url, "--loglevel", "debug"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert "/api/v1/annotations/sequences/" in ended.stderr
    assert "seconds=" in ended.stderr
    assert "becomes=[1]" in ended.stderr
    assert not any(secret in ended.stderr for secret in ("reader-secret", "boss-secret", "admin12345", "canary"))


def test_the_main_credentials_never_go_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAIN_ANNOTATION_LOGIN", "MAIN_ANNOTATION_PASSWORD"):
        monkeypatch.setenv(name, "main")
    monkeypatch.setenv("LOCAL_ANNOTATION_LOGIN", "local")
    monkeypatch.delenv("LOCAL_ANNOTATION_PASSWORD", raising=False)
    monkeypatch.setenv("ANNOTATOR_PASSWORD", "fallback")
    credentials = PlatformCredentials(_env_file=None)
    for url in ("http://localhost:5050", "http://127.0.0.1:5050", "http://127.9.9.9", "http://[::1]:5050"):
        login = annotation_login(url, credentials)
        assert (login.username, login.password) == ("local", "fallback")
        assert login.variables.startswith("LOCAL_ANNOTATION_LOGIN")
    for url in ("https://annotationapi.pyronear.org", "http://localhost.pyronear.org"):
        login = annotation_login(url, credentials)
        assert (login.username, login.password) == ("main", "main")


def test_days_in_the_wrong_order_are_refused() -> None:
    ended = run(None, "--date-from", "2026-01-02", "--date-end", "2026-01-01")
    assert isinstance(ended.exception, HeadraceError)
    assert "Invalid combination of --date-from and --date-end parameters" in str(ended.exception)
    assert ended.exception.exit_code == 2


def test_more_days_than_anybody_means_are_refused() -> None:
    ended = run(None, "--date-from", "0202-01-02", "--date-end", "2026-01-01")
    assert isinstance(ended.exception, HeadraceError)
    assert ended.exception.exit_code == 2


def test_missing_credentials_are_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PLATFORM_LOGIN", "PLATFORM_PASSWORD", "PLATFORM_ADMIN_LOGIN", "PLATFORM_ADMIN_PASSWORD"):
        monkeypatch.setenv(name, "given")
    monkeypatch.delenv("PLATFORM_ADMIN_PASSWORD")
    ended = run(None, "--date-from", "2026-01-02")
    assert isinstance(ended.exception, HeadraceError)
    assert "Missing platform credentials: PLATFORM_ADMIN_PASSWORD" in str(ended.exception)
    assert ended.exception.exit_code == 2
