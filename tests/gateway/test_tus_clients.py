"""Resumable uploads by the clients that people use: tus-js-client and Uppy, from the npm registry."""

import json
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from tests.gateway.gateway_world import Gateway, name, picture

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

SCRIPTS = Path(__file__).with_name("tus_js")
INSTALL_S_MAX = 150


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script and the locked packages."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("needs Node.js 20 and npm")
    folder = tmp_path_factory.mktemp("tus") / "clients"
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("node_modules"))
    command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        installed = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry does not answer")
    if installed.returncode:
        pytest.skip(f"the packages cannot be installed: {installed.stderr[-300:]}")
    return folder


@pytest.mark.parametrize("client", ["plain", "parallel", "deferred", "creation", "uppy"])
def test_a_picture_arrives_whole(clients: Path, gateway: Gateway, tmp_path: Path, client: str) -> None:
    body, source = picture(640, 480), name("camera")
    file = tmp_path / "photo.jpg"
    file.write_bytes(body)
    said = json.dumps({"site": "plant", "camera_id": source, "filename": "photo.jpg"})
    run = subprocess.run(
        ["node", "upload.mjs", client, gateway.url, gateway.key(), str(file), said],
        cwd=clients,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    sql = "select kind, width, height, encode(digest, 'hex') from records where source_id = %s"
    assert gateway.rows(sql, source) == [("frame", 640, 480, sha256(body).hexdigest())]
    is_parallel = client in {"parallel", "uppy"}
    upload = run.stdout.strip().rsplit("/", 1)[-1]
    concat = gateway.rows("select metadata->>'concat' from uploads where upload_id = %s", upload)[0][0]
    assert is_parallel == (concat is not None)


@pytest.mark.parametrize("chunk_bytes", [100_000, 2**63 - 1], ids=["chunks", "at once"])
def test_a_picture_arrives_from_tuspy(gateway: Gateway, tmp_path: Path, chunk_bytes: int) -> None:
    tus = pytest.importorskip("tusclient.client", reason="needs tuspy")
    body, source = picture(640, 480), name("camera")
    file = tmp_path / "photo.jpg"
    file.write_bytes(body)
    client = tus.TusClient(f"{gateway.url}/api/v1/uploads", headers={"X-API-Key": gateway.key()})
    said = {"site": "plant", "camera_id": source, "filename": "photo.jpg"}
    with file.open("rb") as stream:
        client.uploader(file_stream=stream, chunk_size=chunk_bytes, metadata=said, upload_checksum=True).upload()
    sql = "select kind, encode(digest, 'hex') from records where source_id = %s"
    assert gateway.rows(sql, source) == [("frame", sha256(body).hexdigest())]
