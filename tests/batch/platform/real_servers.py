"""Runs the import and the reference importer against checkouts of the real servers, and compares their results.

Give it a checkout of pyronear/pyro-api and one of pyronear/pyro-annotator's `annotation_api`, a Python with the
dependencies of each, a PostgreSQL superuser's DSN, and an S3 store. It creates the databases `import_platform`,
`import_ours` and `import_theirs` anew, starts the servers on loopback, fills the platform, imports with both
importers, and prints each row that differs. Then it imports again, which must change nothing, and again after damage,
which must mend it. It exits 1 if anything differs.
docs/import-platform.md shows a call.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import orjson

from headrace.batch.platform.factory import ImportEndpoints, load_credentials, open_import
from headrace.batch.platform.options import ImportOptions
from headrace.runtime.addresses import networks_of
from headrace.runtime.logs import configure_logs
from headrace.runtime.settings import LogFormat
from headrace.schemas.events import Origin
from tests.batch.platform.import_program import Silent
from tests.batch.platform.real_platform import ADMIN, DAY, PASSWORD, READER, SERVER, client, fill

PORTS = {"platform": 18050, "ours": 18051, "theirs": 18052}
# Modules that the servers import for work that an import does not need.
STUBS = {
    "cv2": "INTER_LINEAR = 0",
    "onnxruntime": "class InferenceSession: ...",
    "pyro_camera_api_client": "class PyroCameraAPIClient: ...",
}
REFERENCE = """
import importlib, sys
module = importlib.import_module(sys.argv.pop(1))
made = module.make_cli_parser
def without_choices():
    parser = made()
    for action in parser._actions:
        if "api" in action.dest:
            action.choices = None
    return parser
module.make_cli_parser = without_choices
module.main()
"""


@dataclass
class World:
    """The servers' checkouts and stores."""

    options: argparse.Namespace
    stubs: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def dsn(self, name: str) -> str:
        return str(urlsplit(self.options.postgres)._replace(path=f"/import_{name}").geturl())

    def environment(self, name: str) -> dict[str, str]:
        options = self.options
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{self.source(name)}:{self.stubs}",
            "POSTGRES_URL": self.dsn(name).replace("postgresql://", "postgresql+asyncpg://"),
            "S3_ACCESS_KEY": options.s3_key,
            "S3_SECRET_KEY": options.s3_secret,
            "S3_REGION": "us-east-1",
            "S3_ENDPOINT_URL": options.s3,
            "SERVER_NAME": SERVER,
            "PLATFORM_SERVER_NAME": SERVER,
            "SUPERADMIN_LOGIN": ADMIN,
            "SUPERADMIN_PWD": PASSWORD,
            "SUPERADMIN_ORG": "administration",
            "JWT_SECRET": "import-test",
            "AUTH_USERNAME": "admin",
            "AUTH_PASSWORD": "admin12345",
            "POSTHOG_KEY": "",
            "DEBUG": "false",
        }

    def source(self, name: str) -> Path:
        root: Path = self.options.platform if name == "platform" else self.options.annotator
        return root / "src"

    def python(self, name: str) -> str:
        return str(self.options.platform_python if name == "platform" else self.options.annotator_python)

    def run(self, name: str, *arguments: str) -> None:
        command = [self.python(name), *arguments]
        subprocess.run(command, cwd=self.source(name), env=self.environment(name), check=True)

    def start(self, name: str) -> None:
        creates_tables = "create_all" in (self.source(name) / "app" / "db.py").read_text()
        if not creates_tables:
            self.run(name, "-m", "alembic", "upgrade", "head")
        if name == "platform" or creates_tables:
            self.run(name, "app/db.py")  # which also adds the platform's first user
        options = ["--port", str(PORTS[name]), "--log-level", "error"]
        command = [self.python(name), "-m", "uvicorn", "app.main:app", *options]
        self.processes.append(
            subprocess.Popen(command, cwd=self.source(name), env=self.environment(name))  # ended by `started`
        )
        for _ in range(120):
            time.sleep(0.5)
            try:
                with urllib.request.urlopen(f"{url(name)}/api/v1/openapi.json"):
                    return
            except OSError:
                continue
        raise SystemExit(f"{name} does not answer")


def url(name: str) -> str:
    return f"http://127.0.0.1:{PORTS[name]}"


@contextmanager
def started(world: World) -> Iterator[None]:
    try:
        for name in PORTS:
            world.start(name)
        yield
    finally:
        for process in world.processes:
            process.terminate()
        for process in world.processes:
            process.wait(20)


async def create_databases(world: World) -> None:
    connection = await asyncpg.connect(world.options.postgres)
    for name in PORTS:
        await connection.execute(f"drop database if exists import_{name} with (force)")
        await connection.execute(f"create database import_{name}")
    await connection.close()


async def import_ours(folder: Path) -> str:
    published: list[int | None] = []

    async def publish(_body: bytes, origin: Origin, _attributes: bytes) -> None:
        published.append(origin.sequence)

    endpoints = ImportEndpoints(
        platform_url=url("platform"),
        annotation_url=url("ours"),
        credentials=load_credentials(platform_needed=True),
        networks=networks_of("127.0.0.0/8"),
    )
    options = ImportOptions(first=DAY, last=DAY, source="pyronear_french")
    async with open_import(endpoints, options, Silent(), publish=publish, state_folder=folder) as opened:
        statistics = await opened.run()
    for line in (*statistics.faults, *statistics.notes):
        print(line)
    return f"{statistics.summary()}\n  Frames published: {len(published)}"


def import_theirs(world: World) -> None:
    packages = Path("scripts/data_transfer/ingestion")
    newest = (world.options.annotator / packages / "alert_api").is_dir()
    module = ".".join((*packages.parts, "alert_api" if newest else "platform", "import"))
    names = ("--alert-api-url", "--annotation-api-url") if newest else ("--url-api-platform", "--url-api-annotation")
    days = ["--date-from", str(DAY), "--date-end", str(DAY)]
    importer = world.options.annotator / Path(*module.split(".")).with_suffix(".py")
    if "--max-sequences" in importer.read_text():
        days += ["--max-sequences", "100000"]  # one generation imports 10 at most otherwise
    urls = [names[0], url("platform"), names[1], url("theirs")]
    command = [world.python("theirs"), "-c", REFERENCE, module, *days, *urls]
    environment = world.environment("theirs") | {name: os.environ[name] for name in os.environ if "PLATFORM_" in name}
    environment["PYTHONPATH"] += f":{world.options.annotator}"
    environment["ANNOTATOR_PASSWORD"] = "admin12345"
    subprocess.run(command, cwd=world.options.annotator, env=environment, check=False)


async def content(world: World, name: str) -> dict[str, Any]:
    """Return each sequence with its detections and its annotation, without ids and times of their creation."""
    connection = await asyncpg.connect(world.dsn(name))
    sequences = [dict(row) for row in await connection.fetch("select * from sequences")]
    detections = [dict(row) for row in await connection.fetch("select * from detections order by alert_api_id")]
    annotations = [dict(row) for row in await connection.fetch("select * from sequences_annotations")]
    skips = []
    if await connection.fetchval("select to_regclass('public.alert_skips') is not null"):
        skips = [row[0] for row in await connection.fetch("select platform_alert_id from alert_skips")]
    await connection.close()
    alert_ids = {row["id"]: row["alert_api_id"] for row in detections}
    made: dict[str, Any] = {f"sequence {row['alert_api_id']}": plain(row) for row in sequences}
    keys = {row["id"]: f"sequence {row['alert_api_id']}" for row in sequences}
    for row in detections:
        assert row["bucket_key"]
        made[f"{keys[row['sequence_id']]} detection {row['alert_api_id']}"] = plain(row)
    for row in annotations:
        entry = plain(row)
        for track in entry["annotation"]["sequences_bbox"]:
            for box in track["bboxes"]:
                box["detection_id"] = alert_ids[box["detection_id"]]
            track["bboxes"].sort(key=str)
        made[f"{keys[row['sequence_id']]} annotation"] = entry
    made["parked"] = sorted(skips)
    return made


def plain(row: dict[str, Any]) -> dict[str, Any]:
    unstable = {"id", "created_at", "updated_at", "bucket_key", "sequence_id"}
    loaded = {name: value for name, value in row.items() if name not in unstable}
    for name, value in loaded.items():
        if isinstance(value, str) and value[:1] in {"{", "["}:
            loaded[name] = orjson.loads(value)
    return loaded


async def compare(world: World, folder: Path) -> int:
    print(await import_ours(folder))
    import_theirs(world)
    ours, theirs = await content(world, "ours"), await content(world, "theirs")
    differences = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    for key in differences:
        print(f"{key}:\n  ours   {ours.get(key)}\n  theirs {theirs.get(key)}")
    print(f"{len(ours)} rows, {len(theirs)} of the reference, {len(differences)} differ")
    print(await import_ours(folder / "again"))
    changed = await content(world, "ours") != ours
    print(f"a second import without the state changed {'something' if changed else 'nothing'}")
    await damage(world)
    print(await import_ours(folder / "mended"))
    is_mended = await content(world, "ours") == ours
    print(f"damage was {'mended' if is_mended else 'not mended'}")
    return int(bool(differences) or changed or not is_mended)


async def damage(world: World) -> None:
    """Empty an annotation, and take the key of a picture, as a failed upload to an older server leaves it."""
    connection = await asyncpg.connect(world.dsn("ours"))
    await connection.execute(
        "update sequences_annotations set annotation = $1 where id = (select min(id) from sequences_annotations)",
        '{"sequences_bbox": []}',
    )
    await connection.execute("update detections set bucket_key = '' where id = (select max(id) from detections)")
    await connection.close()


async def prepare(world: World) -> None:
    await create_databases(world)
    with client(world.options) as made:
        async with made as s3:
            known = {bucket["Name"] for bucket in (await s3.list_buckets())["Buckets"]}
            if "annotation-api" not in known:
                await s3.create_bucket(Bucket="annotation-api")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("platform", "platform-python", "annotator", "annotator-python", "folder"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("postgres", "s3", "s3-key", "s3-secret"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--sequences", type=int, default=24)
    options = parser.parse_args()
    stubs: Path = options.folder / "stubs"
    stubs.mkdir(parents=True, exist_ok=True)
    for name, text in STUBS.items():
        (stubs / f"{name}.py").write_text(f"{text}\n")
    for name, value in (
        ("LOGIN", READER),
        ("ADMIN_LOGIN", ADMIN),
        ("PASSWORD", PASSWORD),
        ("ADMIN_PASSWORD", PASSWORD),
    ):
        os.environ[f"PLATFORM_{name}"] = value
    configure_logs(LogFormat.CONSOLE, "error", "import-platform")
    world = World(options, stubs)
    asyncio.run(prepare(world))
    with started(world):
        asyncio.run(fill(options, world.dsn("platform")))
        return asyncio.run(compare(world, options.folder / f"state-{datetime.now(UTC):%H%M%S}"))


if __name__ == "__main__":
    sys.exit(main())
