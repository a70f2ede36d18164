"""Credentials and servers of an import."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.batch.platform.boxes import Generation
from tests.batch.platform.alert_server import PlatformServer
from tests.batch.platform.annotation_server import AnnotationServer
from tests.batch.platform.api_server import served
from tests.batch.platform.import_world import ImportWorld


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if "ANNOTAT" in name or "ALERT_API" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PLATFORM_LOGIN", "reader")
    monkeypatch.setenv("PLATFORM_PASSWORD", "reader-secret")
    monkeypatch.setenv("PLATFORM_ADMIN_LOGIN", "boss")
    monkeypatch.setenv("PLATFORM_ADMIN_PASSWORD", "boss-secret")


@pytest.fixture(params=Generation)
def world(request: pytest.FixtureRequest, tmp_path: Path, credentials: None) -> Iterator[ImportWorld]:
    made = ImportWorld(PlatformServer(request.param), AnnotationServer(request.param), tmp_path)
    with served(made.platform, made.annotation):
        yield made
