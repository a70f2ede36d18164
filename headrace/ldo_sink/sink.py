"""The sink of LDOs in a host process, which it neither slows nor breaks.

`send` encodes the metadata as JSON and puts the LDO into a bounded queue; if the queue is full, the LDO is dropped and
counted. One background thread moves LDOs from the queue to the spool, and another sends them from there, oldest first,
so a slow service never keeps an LDO from the disk.
"""

import atexit
import logging
import os
import queue
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from headrace.ldo_sink.post import Answer, LdoService
from headrace.ldo_sink.request import PostOutcome, delay_s, metadata_of, outcome_of
from headrace.ldo_sink.spool import LdoSpool, SpoolFullError
from headrace.schemas.limits import MIB

QUEUE_LDOS_MAX = 256
QUEUE_BYTES_MAX = 64 * 1024 * 1024
CLOSE_S_MAX = 5.0
CONFLICT = 409  # an earlier request is in progress, for hours if the gateway crashed: others go first
ATTEMPTS_MAX = 8  # consecutive, then the next LDO: one that breaks the service must not block the others
_LOG_EVERY_S = 60.0
_KEEP_AGAIN_S = 1.0  # after a disk error
_LOOK_S = 0.2

# The environment variables that configure the sink.
SWITCH = "USE_DATA_INGESTION"
URL = "DATA_INGESTION_URL"
SPOOL = "DATA_INGESTION_SPOOL"
SPOOL_MIB = "DATA_INGESTION_SPOOL_MIB"

_TRUE = frozenset({"true", "1", "yes", "on"})
_SPOOL_MIB = 256

log = logging.getLogger("headrace.ldo_sink")


@dataclass(frozen=True, slots=True)
class SinkCounts:
    """Counts of the LDOs of this process; `dropped` is by reason, `waiting` is queued or spooled."""

    sent: int
    waiting: int
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True)
class QueuedLdo:
    """An LDO that is not in the spool yet."""

    metadata: bytes
    video: bytes | Path | None

    @property
    def size_bytes(self) -> int:
        """The bytes that it holds in memory."""
        return len(self.metadata) + (len(self.video) if isinstance(self.video, bytes) else 0)


class LdoSink:
    """Sends LDOs in the background. No method raises, and only `flush` and `close` wait."""

    def __init__(self, service: LdoService | None, open_spool: Callable[[], LdoSpool], *, is_on: bool = True) -> None:
        """Start; see `from_env`. A sink that is off does nothing; without a service it counts dropped LDOs."""
        self._is_on = is_on
        self._service = service
        self._open_spool = open_spool
        self._spool: LdoSpool | None = None
        self._begin()
        if is_on and service is not None:
            # A child process has no copy of the threads, and must not hold the lock.
            os.register_at_fork(after_in_child=self._after_fork)
            with suppress(RuntimeError):  # no thread can be started; the next LDO tries again
                self._start()

    @property
    def is_on(self) -> bool:
        """Whether the sink is enabled."""
        return self._is_on

    def send(
        self,
        ldo_id: str,
        *,
        sensor_data: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        prediction: Mapping[str, Any] | None = None,
        video: bytes | str | Path | None = None,
    ) -> bool:
        """Queue an LDO and return whether it was accepted. A video given as a path must exist until it is spooled."""
        if not self._is_on:
            return False
        try:
            return self._accept(ldo_id, sensor_data, context, prediction, video)
        except Exception as error:  # noqa: BLE001 - no argument may raise in the host
            self._drop("unusable", f"{type(error).__name__}: {error}")
            return False

    def counts(self) -> SinkCounts:
        """Return the current counts."""
        with self._counting:
            dropped = dict(self._dropped)
        return SinkCounts(self._sent, self._queue.qsize() + len(self._spool or ()), dropped)

    def flush(self, seconds: float) -> bool:
        """Wait at most `seconds` until all LDOs are sent; return whether they are."""
        deadline = time.monotonic() + seconds
        while self._thread is not None and self._thread.is_alive() and not self._is_empty():
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_S / 10)
        return self._thread is None or self._is_empty()

    def close(self, seconds: float = CLOSE_S_MAX) -> None:
        """Send for at most `seconds`, and leave the rest in the spool for the next start."""
        if self._stop.is_set() or self._thread is None:
            return
        deadline = time.monotonic() + seconds
        # After a failure the service will hardly accept everything in time.
        while not self._failures and time.monotonic() < deadline and not self.flush(_LOOK_S):
            pass
        self._stop.set()
        self._queued.set()
        self._spooled.set()
        self._thread.join(max(_LOOK_S, deadline - time.monotonic()))
        try:
            self._keep_queued(wait_s_max=1.0)
        except Exception as error:  # noqa: BLE001 - runs while the host exits
            self._drop("spool_failed", str(error))
        if self._spool is not None and not self._thread.is_alive():
            self._spool.close()  # else the lock is held until the process ends, because a request may be in progress

    def _accept(self, ldo_id: str, *parts: Any) -> bool:
        *objects, video = parts
        ldo = QueuedLdo(metadata_of(ldo_id, *objects, now_s=time.time()), _video(video))
        if self._service is None:
            self._drop("no_address", "DATA_INGESTION_URL is not usable")
            return False
        if self._stop.is_set():
            self._drop("closed", "the sink was closed")
            return False
        with self._counting:
            if self._thread is None:
                self._start()
            has_space = self._queued_bytes + ldo.size_bytes <= QUEUE_BYTES_MAX
            if has_space:
                try:
                    self._queue.put_nowait(ldo)
                except queue.Full:
                    has_space = False
                else:
                    self._queued_bytes += ldo.size_bytes
        if not has_space:
            self._drop("queue_full", "LDOs arrive faster than they can be written")
            return False
        self._queued.set()
        return True

    def _begin(self) -> None:
        self._queue: queue.Queue[QueuedLdo] = queue.Queue(QUEUE_LDOS_MAX)
        self._queued_bytes = 0
        self._counting = threading.Lock()
        self._keeping = threading.Lock()
        self._queued, self._spooled, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._sent = 0
        self._failures = 0
        self._dropped: Counter[str] = Counter()
        self._logged_s: dict[str, float] = {}
        self._thread: threading.Thread | None = None

    def _start(self) -> None:
        keeper = threading.Thread(target=self._keep, name="headrace-ldo-sink-keeper", daemon=True)
        sender = threading.Thread(target=self._run, name="headrace-ldo-sink", daemon=True)
        keeper.start()  # if the sender cannot be started, the next LDO starts both; two keepers are harmless
        sender.start()
        self._thread = sender

    def _after_fork(self) -> None:
        spool, self._spool = self._spool, None
        if spool is not None:
            spool.forget()
        self._begin()

    def _keep(self) -> None:
        while not self._stop.is_set():
            self._queued.clear()
            try:
                self._keep_queued()
            except Exception as error:  # noqa: BLE001 - the thread must survive any disk error
                self._say("failed", f"{type(error).__name__}: {error}")
                self._stop.wait(_KEEP_AGAIN_S)
                continue
            self._spooled.set()
            self._queued.wait()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._spooled.clear()
            try:
                pause_s = self._step()
            except Exception as error:  # noqa: BLE001 - the thread must survive any disk or network error
                self._say("failed", f"{type(error).__name__}: {error}")
                pause_s = self._failed()
            if pause_s is None:
                self._spooled.wait()
            else:
                self._stop.wait(pause_s)

    def _step(self) -> float | None:
        """Send the oldest LDO; return the seconds to wait, or None to wait for another LDO."""
        spool = self._spool
        path = spool.first() if spool is not None else None
        if spool is None or path is None:
            return None
        return self._send_one(spool, path)

    def _send_one(self, spool: LdoSpool, path: Path) -> float:
        assert self._service is not None
        try:
            answer = self._service.post(path)
        except FileNotFoundError:
            spool.remove(path)
            self._drop("spool_failed", "its file was removed from the spool")
            return 0.0
        except (OSError, HTTPException) as error:
            return self._later(spool, path, f"does not answer: {type(error).__name__}")
        status = f"answered {answer.status}"
        match outcome_of(answer.status):
            case PostOutcome.LATER:
                return self._later(spool, path, status, answer)
            case PostOutcome.SENT:
                self._sent += 1
            case PostOutcome.REFUSED:
                self._drop("refused", f"{self._service.where} {status}: {answer.body!r}")
        spool.remove(path)
        self._failures = 0
        return 0.0

    def _later(self, spool: LdoSpool, path: Path, why: str, answer: Answer | None = None) -> float:
        pause_s = self._failed(answer.retry_after if answer else None)
        if self._failures % ATTEMPTS_MAX == 0 or (answer and answer.status == CONFLICT):
            spool.put_last(path)
        self._say("waiting", f"{self._service.where if self._service else ''} {why}; it will be retried")
        return pause_s

    def _failed(self, retry_after: str | None = None) -> float:
        self._failures += 1
        return delay_s(self._failures, retry_after, random.random())  # noqa: S311 - it only spreads load

    def _keep_queued(self, wait_s_max: float = -1) -> None:
        """Move queued LDOs to the spool; called by the keeper thread and by `close`."""
        if not self._keeping.acquire(timeout=wait_s_max):
            return
        try:
            if self._spool is None:
                self._spool = self._open_spool()
            while True:
                try:
                    ldo = self._queue.get_nowait()
                except queue.Empty:
                    return
                try:
                    self._spool.add(ldo.metadata, ldo.video)
                except SpoolFullError:
                    self._drop("spool_full", "the service was unavailable for too long")
                except Exception as error:  # noqa: BLE001 - the other LDOs follow after any error
                    self._drop("spool_failed", str(error))
                finally:
                    # Only now, so that an LDO always counts as queued or as spooled until it is sent.
                    with self._counting:
                        self._queued_bytes -= ldo.size_bytes
        finally:
            self._keeping.release()

    def _is_empty(self) -> bool:
        """Return whether nothing is waiting; False until the spool is open."""
        return self._spool is not None and self._queued_bytes == 0 and len(self._spool) == 0

    def _drop(self, reason: str, why: str) -> None:
        with self._counting:
            self._dropped[reason] += 1
        self._say(reason, f"an LDO was dropped, {self._dropped[reason]} so far: {why}")

    def _say(self, reason: str, text: str) -> None:
        """Log a warning, at most one per reason and minute."""
        now_s = time.monotonic()
        if now_s - self._logged_s.get(reason, -_LOG_EVERY_S) >= _LOG_EVERY_S:
            self._logged_s[reason] = now_s
            log.warning("ldo sink: %s: %s", reason, text)


def _video(video: Any) -> bytes | Path | None:
    """Return a video as immutable bytes, or as the path of a file.

    Raises:
        TypeError: the video is neither bytes nor a path.
    """
    if video is None or isinstance(video, bytes | Path):
        return video
    return bytes(video) if isinstance(video, bytearray | memoryview) else Path(video)


def from_env(environment: Mapping[str, str] | None = None) -> LdoSink:
    """Return the sink that the environment configures; it does nothing unless USE_DATA_INGESTION is true.

    Never raises: an invalid DATA_INGESTION_URL is logged, and dropped LDOs are counted. When the process ends, the sink
    sends for at most 5 seconds and leaves the rest in DATA_INGESTION_SPOOL for the next start.
    """
    variables = os.environ if environment is None else environment
    spool = Path(variables.get(SPOOL) or _state_directory(variables))
    bytes_max = _spool_mib(variables.get(SPOOL_MIB, "")) * MIB
    if variables.get(SWITCH, "").strip().lower() not in _TRUE:
        return LdoSink(None, lambda: _opened(spool, bytes_max), is_on=False)
    sink = LdoSink(_service(variables.get(URL, "")), lambda: _opened(spool, bytes_max))
    atexit.register(sink.close)
    return sink


def _opened(directory: Path, bytes_max: int) -> LdoSpool:
    try:
        return LdoSpool(directory, bytes_max)
    except OSError as error:
        log.error(  # noqa: TRY400 - the host's log gets one line, without a traceback
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
        log.error(  # noqa: TRY400
            "ldo sink: %s is not usable: it must be http://host:port or https://host", URL
        )
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
