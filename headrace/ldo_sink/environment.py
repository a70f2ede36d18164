"""The variables of an edge server's environment that turn the sink on and say where it sends."""

import atexit
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from headrace.ldo_sink.post import LdoService
from headrace.ldo_sink.sink import LdoSink, log
from headrace.ldo_sink.spool import LdoSpool

SWITCH = "USE_DATA_INGESTION"
URL = "DATA_INGESTION_URL"
SPOOL = "DATA_INGESTION_SPOOL"
SPOOL_MIB = "DATA_INGESTION_SPOOL_MIB"

_TRUE = frozenset({"true", "1", "yes", "on"})
_SPOOL_MIB = 256
_MIB = 1024 * 1024


def from_env(environment: Mapping[str, str] | None = None) -> LdoSink:
    """Return the sink that the environment asks for; it does nothing unless USE_DATA_INGESTION is true.

    It never raises: where DATA_INGESTION_URL is not usable it says so in the log, and counts what it drops. When the
    process ends, it sends for 5 seconds at the most, and leaves the rest in DATA_INGESTION_SPOOL for the next start.
    """
    given = os.environ if environment is None else environment
    spool = Path(given.get(SPOOL) or _state_directory(given))
    bytes_max = _spool_mib(given.get(SPOOL_MIB, "")) * _MIB
    if given.get(SWITCH, "").strip().lower() not in _TRUE:
        return LdoSink(None, lambda: _opened(spool, bytes_max), is_on=False)
    sink = LdoSink(_service(given.get(URL, "")), lambda: _opened(spool, bytes_max))
    atexit.register(sink.close)
    return sink


def _opened(directory: Path, bytes_max: int) -> LdoSpool:
    try:
        return LdoSpool(directory, bytes_max)
    except OSError as error:
        log.error(
            "ldo sink: cannot write to %s (%s): what is not sent when this process ends is lost; set %s",
            directory,
            error.strerror,
            SPOOL,
        )
        return LdoSpool(Path(tempfile.mkdtemp(prefix="headrace-ldo-sink-")), bytes_max, is_temporary=True)


def _service(url: str) -> LdoService | None:
    try:
        return LdoService(url.strip())
    except ValueError:
        # The value is not repeated: it may hold a password.
        log.error("ldo sink: %s is not usable: it should be http://host:port or https://host", URL)
        return None


def _state_directory(given: Mapping[str, str]) -> Path:
    state = given.get("XDG_STATE_HOME")
    return (Path(state) if state else Path(given.get("HOME") or "/", ".local", "state")) / "headrace-ldo-sink"


def _spool_mib(text: str) -> int:
    if len(text) < 8 and text.isdecimal() and 1 <= int(text) <= 1_048_576:
        return int(text)
    if text:
        log.error("ldo sink: %s is not usable: it should be a number of mebibytes from 1 to 1048576", SPOOL_MIB)
    return _SPOOL_MIB
