"""The document against the gateway: Schemathesis sends what the document allows, and what it forbids."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.gateway.gateway_world import Gateway

pytestmark = pytest.mark.stack

HERE = Path(__file__).parent
EXAMPLES = int(os.environ.get("TEST_OPENAPI_EXAMPLES", "10"))
# A fixed seed, so that a change is judged by the same requests each time; another one looks elsewhere.
SEED = os.environ.get("TEST_OPENAPI_SEED", "1")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_schemathesis_finds_nothing(gateway: Gateway, tmp_path: Path) -> None:
    report = subprocess.run(
        [
            str(Path(sys.executable).parent / "schemathesis"),
            "--config-file",
            str(HERE / "schemathesis.toml"),
            "run",
            f"{gateway.url}/openapi.json",
            "--header",
            f"X-API-Key: {gateway.key('admin')}",
            "--checks",
            "all",
            "--max-examples",
            str(EXAMPLES),
            "--phases",
            "examples,coverage,fuzzing",
            "--request-timeout",
            "60",
            "--workers",
            "1",
            "--no-color",
            "--seed",
            SEED,
        ],
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert report.returncode == 0, report.stdout[-8000:]


def test_every_call_says_how_it_may_fail(gateway: Gateway) -> None:
    document = httpx.get(f"{gateway.url}/openapi.json").json()
    open_to_all = {"/health", "/ready", "/metrics"}
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            if path not in open_to_all:
                assert {"401", "429"} <= set(call["responses"]), f"{method} {path}"


def test_the_pages_need_no_internet(gateway: Gateway) -> None:
    page = httpx.get(f"{gateway.url}/docs").text
    assert "https://" not in page.replace("https://fastapi.tiangolo.com", "")
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert httpx.get(f"{gateway.url}/static-offline-docs/{asset}").status_code == 200
