"""Kafka's jars: which ones, by exact version and SHA-256, and how they get onto this machine.

`kafka-jars.json` lists every jar that the coordinates below lead to. Walking that graph takes jgo most of a minute of
CPU; with the list in hand only the files are fetched, and the same ones everywhere. After changing a coordinate, run
`python -m headrace.native.kafka_jars` to write the list anew.
"""

import hashlib
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace.native.layout import cache_home, locked
from headrace.runtime.errors import HeadraceError

KAFKA_VERSION = "4.3.0"
_COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}",
    f"org.apache.kafka:connect-mirror:{KAFKA_VERSION}",
    f"org.apache.kafka:connect-runtime:{KAFKA_VERSION}",
    "org.slf4j:slf4j-simple:1.7.36",
)
_LIST = Path(__file__).with_name("kafka-jars.json")
_DOWNLOADS_AT_ONCE = 8
_TRIES_MAX = 3
_PROGRESS_EVERY_S = 3.0


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the list."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """Its name, as Maven repositories have it."""
        return f"{self.artifact}-{self.version}.jar"


def listed() -> tuple[Jar, ...]:
    """The jars of the list, in the order of the class path."""
    return tuple(_jar(coordinate, sha256) for coordinate, sha256 in json.loads(_LIST.read_bytes()).items())


def _jar(coordinate: str, sha256: str) -> Jar:
    group, artifact, version = coordinate.split(":")
    return Jar(group, artifact, version, sha256)


def jars_home() -> Path:
    """Where the jars of this version lie."""
    return cache_home() / f"kafka-{KAFKA_VERSION}"


def class_path() -> str:
    """The value of CLASSPATH for Kafka's programs."""
    return ":".join(str(jars_home() / "jars" / jar.file_name) for jar in listed())


def install(progress: Callable[[str], None]) -> None:
    """Fetch the jars that are not here yet; may be repeated, and by several processes at once.

    Raises HeadraceError when one cannot be had or is not what the list says.
    """
    home = jars_home() / "jars"
    if not _missing(home):
        return
    with locked(jars_home() / "install.lock", wait=True):
        missing = _missing(home)
        if not missing:
            return
        home.mkdir(parents=True, exist_ok=True)
        for archive in jars_home().glob("*.jsa"):
            # It was made from other files, and the JVM would refuse it silently from now on.
            archive.unlink()
        started = time.monotonic()
        progress(f"kafka: fetching {len(missing)} jars of Kafka {KAFKA_VERSION} (57 MB, only this once)")
        with tempfile.TemporaryDirectory(dir=jars_home(), prefix="fetch-") as room:
            _fetch_all(missing, room=Path(room), home=home, progress=progress)
        progress(f"kafka: jars fetched in {time.monotonic() - started:.0f} s")


def _missing(home: Path) -> list[Jar]:
    return [jar for jar in listed() if not (home / jar.file_name).is_file()]


def _fetch_all(jars: list[Jar], *, room: Path, home: Path, progress: Callable[[str], None]) -> None:
    context = _context(room)
    told = time.monotonic()
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        fetches = [pool.submit(_fetch, context, jar, home) for jar in jars]
        for done, fetch in enumerate(as_completed(fetches), start=1):
            error = fetch.exception()
            if error is not None:
                pool.shutdown(cancel_futures=True)
                raise error
            if time.monotonic() - told > _PROGRESS_EVERY_S:
                told = time.monotonic()
                progress(f"kafka: fetched {done} of {len(jars)} jars")


def _fetch(context: Any, jar: Jar, home: Path) -> None:
    """Fetch into the room, check, then move: a jar in its place is complete and the right one."""
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    for attempt in range(1, _TRIES_MAX + 1):
        try:
            fetched = Path(artifact.resolve())
            break
        except Exception as error:
            # jgo refuses to write over what an attempt left half done.
            if artifact.cached_path:
                artifact.cached_path.unlink(missing_ok=True)
            if attempt == _TRIES_MAX:
                raise _unavailable(jar, error) from error
            time.sleep(attempt)
    found = hashlib.sha256(fetched.read_bytes()).hexdigest()
    if found != jar.sha256:
        raise HeadraceError(
            "kafka_jar_differs",
            f"{jar.file_name} has SHA-256 {found}, not the {jar.sha256} of the list",
            where="headrace/native/kafka-jars.json",
            hint="what answers for the Maven repository serves other bytes: find out why before you use them",
        )
    fetched.replace(home / jar.file_name)


def _unavailable(jar: Jar, error: Exception) -> HeadraceError:
    reason = str(error).split(" for url")[0].splitlines()[0][:160] if str(error) else type(error).__name__
    return HeadraceError(
        "kafka_unavailable",
        f"Kafka cannot be installed, because {jar.file_name} could not be fetched: {reason}",
        where="headrace.native.kafka_jars",
        hint="check the network (HTTPS_PROXY, or a mirror in jgo's own settings file) and run it again: what has been "
        "fetched is kept; or run the processes one by one with HEADRACE_KAFKA_BOOTSTRAP set to a running Kafka",
        exit_code=3,
    )


def _context(repository: Path) -> Any:
    """Maven as jgo sees it, with the mirrors of the user's own jgo settings if there are any."""
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    logging.getLogger("jgo").setLevel(logging.ERROR)
    return MavenContext(repo_cache=repository, remote_repos=GlobalSettings.load().repositories or None, timeout=60)


def _resolve(room: Path) -> Iterable[tuple[str, str]]:
    """Walk the graph of dependencies and fetch every jar of it, for the list."""
    from jgo.parse import Coordinate

    context = _context(room)
    wanted = [context.create_dependency(replace(Coordinate.parse(text), scope="compile")) for text in _COORDINATES]
    inputs, others = context.resolver.resolve(wanted)
    needed = [*inputs, *(other for other in others if other.scope in {"compile", "runtime"})]
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        paths = list(pool.map(lambda one: Path(one.artifact.resolve()), needed))
    for one, path in zip(needed, paths, strict=True):
        yield f"{one.groupId}:{one.artifactId}:{one.version}", hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Write the list anew."""
    room = Path(tempfile.mkdtemp(prefix="headrace-jars-"))
    try:
        digests = dict(sorted(_resolve(room)))
    finally:
        shutil.rmtree(room, ignore_errors=True)
    _LIST.write_text(json.dumps(digests, indent=1) + "\n", encoding="ascii")
    sys.stderr.write(f"{len(digests)} jars listed in {_LIST.name}\n")


if __name__ == "__main__":
    main()
