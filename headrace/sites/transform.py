"""The transformation of Kafka Connect that gives mirrored records their origin: compiled once, by Eclipse's compiler.

The compiler is one jar and needs no JDK, so any Java that runs Kafka can compile. Its bytes are pinned like Kafka's.
"""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from headrace.native.kafka_jars import KAFKA_VERSION, Jar, fetch, jars_home
from headrace.native.layout import cache_home, locked
from headrace.runtime.errors import HeadraceError
from headrace.sites.mm2 import TRANSFORMATION

_COMPILER = Jar("org.eclipse.jdt", "ecj", "3.38.0", "97c566b120009c203a2fc8b291f4a9adbc171cf1ccb70f06f6b4e1828c00ce8e")
_SOURCE = Path(__file__).with_name("Origin.java")
_SERVICE = "META-INF/services/org.apache.kafka.connect.transforms.Transformation"
_NEEDED = ("connect-api", "kafka-clients")
_COMPILE_S_MAX = 120


def transform_classes(java: Path, progress: Callable[[str], None]) -> Path:
    """Return the directory of the compiled class, for the class path; compiles it at the first use.

    May be repeated, also by several processes at once.

    Raises:
        HeadraceError: the compiler cannot be downloaded, or fails.
    """
    digest = hashlib.sha256(_SOURCE.read_bytes() + KAFKA_VERSION.encode()).hexdigest()[:16]
    home = cache_home() / f"mirror-{digest}"
    if home.is_dir():
        return home
    with locked(cache_home() / "mirror.lock"):
        if not home.is_dir():
            progress("mirror: compiling its transformation (once)")
            with tempfile.TemporaryDirectory(dir=cache_home(), prefix="compile-") as directory:
                built = Path(directory) / "classes"
                _compile(java, fetch(_COMPILER, jars_home() / "compiler"), built)
                built.rename(home)
    return home


def _compile(java: Path, compiler: Path, built: Path) -> None:
    jars = os.pathsep.join(str(jars_home() / "jars" / f"{name}-{KAFKA_VERSION}.jar") for name in _NEEDED)
    options = ["-17", "-proc:none", "-encoding", "UTF-8", "-cp", jars, "-d", str(built)]
    result = subprocess.run(
        [str(java), "-jar", str(compiler), *options, str(_SOURCE)],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMPILE_S_MAX,
    )
    if result.returncode != 0:
        raise HeadraceError(
            "transform_not_compiled",
            f"the transformation of the mirror could not be compiled: {result.stderr.strip()[:300]}",
            where=str(_SOURCE),
            hint="set JAVA_HOME to a Java of version 17 or newer",
        )
    service = built / _SERVICE
    service.parent.mkdir(parents=True)
    service.write_text(f"{TRANSFORMATION}\n", encoding="ascii")
