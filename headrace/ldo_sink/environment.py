"""The environment variables that configure the sink."""

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
    """Return the sink that the environment configures; it does nothing unless USE_DATA_INGESTION is true.

    Never raises: an invalid DATA_INGESTION_URL is logged, and dropped LDOs are counted. When the process ends, the sink
    sends for at most 5 seconds and leaves the rest in DATA_INGESTION_SPOOL for the next start.
    """
    variables = os.environ if environment is None else environment
    spool = Path(variables.get(SPOOL) or _state_directory(variables))
    bytes_max = _spool_mib(variables.get(SPOOL_MIB, "")) * _MIB
    if variables.get(SWITCH, "").strip().lower() not in _TRUE:
        return LdoSink(None, lambda: _opened(spool, bytes_max), is_on=False)
    sink = LdoSink(_service(variables.get(URL, "")), lambda: _opened(spool, bytes_max))
    atexit.register(sink.close)
    return sink


def _opened(directory: Path, bytes_max: int) -> LdoSpool:
    try:
        return LdoSpool(directory, bytes_max)
    except OSError as error:
        log.error(
            "ldo sink: cannot write to %s (%s): LDOs not sent when this process ends are lost; set %s",
            directory,
            error.strerror,
            SPOOL,
        )
        return LdoSpool(Path(tempfile.mkdtemp(prefix="headrace-ldo-sink-")), bytes_max, is_temporary=True)


def _service(url: str) -> LdoService | None:
    try:
        return LdoService(url.strip())
    except ValueError:
        # The value is not logged: it may contain a password.
        log.error("ldo sink: %s is not usable: it must be http://host:port or https://host", URL)
        return None


def _state_directory(variables: Mapping[str, str]) -> Path:
    state = variables.get("XDG_STATE_HOME")
    return (Path(state) if state else Path(variables.get("HOME") or "/", ".local", "state")) / "headrace-ldo-sink"


def _spool_mib(text: str) -> int:
    if len(text) < 8 and text.isdecimal() and 1 <= int(text) <= 1_048_576:
        return int(text)
    if text:
        log.error("ldo sink: %s is not usable: it must be a number of mebibytes from 1 to 1048576", SPOOL_MIB)
    return _SPOOL_MIB
