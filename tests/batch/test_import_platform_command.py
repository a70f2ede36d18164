"""The command: its options, what it prints, its exit codes, and frames that go through a real publisher."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from platform_servers import FIRST_DAY, AnnotationServer, Fault, PlatformServer, served
from typer.testing import CliRunner, Result

from batch.platform.clusters import Generation
from headrace.cli import app, platform
from producers import Publisher
from runtime.errors import HeadraceError
from runtime.settings import Settings
from tests.producers.conftest import MOCK

DAY = str(FIRST_DAY.date())


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


def test_it_ends_with_the_statistics(servers: tuple[PlatformServer, AnnotationServer]) -> None:
    servers[0].faults = [Fault("GET /sequences/7/", 500)]
    ended = run(servers, "--date-from", DAY, "--date-end", DAY, "--loglevel", "error")
    assert ended.stdout == (
        "Processing completed!\nFinal Statistics:\n  Total sequences: 10\n  Successful sequences: 9\n"
        "  Failed sequences: 1\n  Annotations created: 9\n"
    )
    assert ended.exit_code == 1
    assert f"{DAY}: 10 fetched = 9 imported, 0 skipped, 1 failed: not complete" in ended.stderr
    assert run(servers, "--date-from", DAY, "--date-end", DAY).exit_code == 0


def test_json_says_the_same_and_shows_what_a_dry_run_would_do(servers: tuple[PlatformServer, AnnotationServer]) -> None:
    ended = run(servers, "--date-from", DAY, "--date-end", DAY, "--dry-run", "--json")
    said = json.loads(ended.stdout.splitlines()[-1])
    assert ended.exit_code == 0
    assert (said["total_sequences"], said["annotations_created"], len(said["would_annotate"])) == (10, 0, 10)
    assert said["days"][0]["adds_up"]
    assert servers[1].asked == []


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
