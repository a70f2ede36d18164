"""Kafka's jars: their exact versions and SHA-256 digests, and their installation.

`kafka-jars.json` lists every jar that the coordinates below depend on. Resolving them takes jgo most of a minute of
CPU; with the list only the files are downloaded, and the same ones everywhere. After changing a coordinate, run
`python -m headrace.native.kafka_jars` to update the list.
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

from headrace.native.downloads import UNTRUSTED, UNTRUSTED_HINT, is_untrusted
from headrace.native.layout import cache_home, locked
from headrace.runtime.backoff import Backoff
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
_RETRY = Backoff(first_s=1.0, max_s=2.0)
_PROGRESS_EVERY_S = 3.0


@dataclass(frozen=True, slots=True)
class Jar:
    """One entry of the list."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """Its file name in a Maven repository."""
        return f"{self.artifact}-{self.version}.jar"


def listed() -> tuple[Jar, ...]:
    """Return the jars of the list, in the order of the class path."""
    return tuple(_jar(coordinate, sha256) for coordinate, sha256 in json.loads(_LIST.read_bytes()).items())


def _jar(coordinate: str, sha256: str) -> Jar:
    group, artifact, version = coordinate.split(":")
    return Jar(group, artifact, version, sha256)


def jars_home() -> Path:
    """Return the directory of the jars of this version."""
    return cache_home() / f"kafka-{KAFKA_VERSION}"


def class_path() -> str:
    """Return the value of CLASSPATH for Kafka's programs."""
    return ":".join(str(jars_home() / "jars" / jar.file_name) for jar in listed())


def install(progress: Callable[[str], None]) -> None:
    """Download the jars that are missing; may be repeated, also by several processes at once.

    Raises HeadraceError when a download fails or its digest differs from the list.
    """
    home = jars_home() / "jars"
    if not _missing(home):
        return
    with locked(jars_home() / "install.lock"):
        missing = _missing(home)
        if not missing:
            return
        home.mkdir(parents=True, exist_ok=True)
        for archive in jars_home().glob("*.jsa"):
            # It was built from other files, so the JVM would ignore it silently.
            archive.unlink()
        started = time.monotonic()
        progress(f"kafka: downloading {len(missing)} jars of Kafka {KAFKA_VERSION} (57 MB, once)")
        with tempfile.TemporaryDirectory(dir=jars_home(), prefix="fetch-") as directory:
            _fetch_all(missing, downloads=Path(directory), home=home, progress=progress)
        progress(f"kafka: jars downloaded in {time.monotonic() - started:.0f} s")


def fetch(jar: Jar, home: Path) -> Path:
    """Return the path of a jar that is not one of Kafka's; downloads it to the directory if it is missing there.

    Raises HeadraceError when the download fails or its digest differs.
    """
    path = home / jar.file_name
    if not path.is_file():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix="fetch-") as directory:
            _fetch(_context(Path(directory)), jar, home)
    return path


def _missing(home: Path) -> list[Jar]:
    return [jar for jar in listed() if not (home / jar.file_name).is_file()]


def _fetch_all(jars: list[Jar], *, downloads: Path, home: Path, progress: Callable[[str], None]) -> None:
    context = _context(downloads)
    reported = time.monotonic()
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        fetches = [pool.submit(_fetch, context, jar, home) for jar in jars]
        for done, fetch in enumerate(as_completed(fetches), start=1):
            error = fetch.exception()
            if error is not None:
                pool.shutdown(cancel_futures=True)
                raise error
            if time.monotonic() - reported > _PROGRESS_EVERY_S:
                reported = time.monotonic()
                progress(f"kafka: downloaded {done} of {len(jars)} jars")


def _fetch(context: Any, jar: Jar, home: Path) -> None:
    """Download, verify, then move: a jar in its final place is complete and has the listed digest."""
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    for attempt in range(1, _TRIES_MAX + 1):
        try:
            fetched = Path(artifact.resolve())
            break
        except Exception as error:
            # jgo does not overwrite an incomplete download.
            if artifact.cached_path:
                artifact.cached_path.unlink(missing_ok=True)
            if attempt == _TRIES_MAX:
                raise _unavailable(jar, error) from error
            time.sleep(_RETRY.delay_s(attempt))
    digest = hashlib.sha256(fetched.read_bytes()).hexdigest()
    if digest != jar.sha256:
        raise HeadraceError(
            "kafka_jar_differs",
            f"{jar.file_name} has SHA-256 {digest}, not {jar.sha256} as listed",
            where="headrace/native/kafka-jars.json",
            hint="the Maven repository serves different bytes: find out why before you use them",
        )
    fetched.replace(home / jar.file_name)


def _unavailable(jar: Jar, error: Exception) -> HeadraceError:
    reason = str(error).split(" for url")[0].splitlines()[0][:160] if str(error) else type(error).__name__
    if is_untrusted(error):
        reason = UNTRUSTED
    return HeadraceError(
        "kafka_unavailable",
        f"Kafka could not be installed, because {jar.file_name} could not be downloaded: {reason}",
        where="headrace.native.kafka_jars",
        hint=UNTRUSTED_HINT
        if is_untrusted(error)
        else "check the network (HTTPS_PROXY, or a mirror in jgo's own settings file) and run it again: downloaded "
        "files are kept; or run the processes one by one with HEADRACE_KAFKA_BOOTSTRAP set to a running Kafka",
        exit_code=3,
    )


def _context(repository: Path) -> Any:
    """Return jgo's Maven context, with the mirrors of the user's own jgo settings if there are any."""
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    logging.getLogger("jgo").setLevel(logging.ERROR)
    return MavenContext(repo_cache=repository, remote_repos=GlobalSettings.load().repositories or None, timeout=60)


def _resolve(downloads: Path) -> Iterable[tuple[str, str]]:
    """Resolve the dependencies and yield the coordinate and the digest of every jar."""
    from jgo.parse import Coordinate

    context = _context(downloads)
    wanted = [context.create_dependency(replace(Coordinate.parse(text), scope="compile")) for text in _COORDINATES]
    inputs, others = context.resolver.resolve(wanted)
    needed = [*inputs, *(other for other in others if other.scope in {"compile", "runtime"})]
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        paths = list(pool.map(lambda dependency: Path(dependency.artifact.resolve()), needed))
    for dependency, path in zip(needed, paths, strict=True):
        coordinate = f"{dependency.groupId}:{dependency.artifactId}:{dependency.version}"
        yield coordinate, hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Update the list."""
    downloads = Path(tempfile.mkdtemp(prefix="headrace-jars-"))
    try:
        digests = dict(sorted(_resolve(downloads)))
    finally:
        shutil.rmtree(downloads, ignore_errors=True)
    _LIST.write_text(json.dumps(digests, indent=1) + "\n", encoding="ascii")
    sys.stderr.write(f"{len(digests)} jars listed in {_LIST.name}\n")


if __name__ == "__main__":
    main()
