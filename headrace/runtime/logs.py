"""Structured logs on standard error, as JSON or for a console, with a closed set of actions."""

import logging
import re
import sys
from collections.abc import MutableMapping
from enum import StrEnum
from typing import Any

import structlog

from headrace.runtime.settings import LogFormat


class Action(StrEnum):
    """The actions that log lines report; dashboards rely on this closed set."""

    STARTED = "started"
    PLAIN_TEXT = "plain_text"
    TRUSTED = "trusted"
    WAITING = "waiting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    STOP_FORCED = "stop_forced"
    HALTED = "halted"
    STUCK = "stuck"
    WATCH_FAILED = "watch_failed"
    RETRYING = "retrying"
    BATCH_STORED = "batch_stored"
    REJECTED = "rejected"
    LOST = "lost"
    TOPIC_RESTARTED = "topic_restarted"
    MIGRATED = "migrated"
    TOPICS_CREATED = "topics_created"
    TOPICS_CHANGED = "topics_changed"
    LEADING = "leading"
    STANDING_BY = "standing_by"
    LEADERSHIP_LOST = "leadership_lost"
    CAUGHT_UP = "caught_up"
    HANDLER_FAILED = "handler_failed"
    UNDECODABLE = "undecodable"
    REFUSED = "refused"
    PASSED_OVER = "passed_over"
    TRANSFERRED = "transferred"
    MAINTAINED = "maintained"
    ANSWERED = "answered"
    CAPTURE = "capture"
    LIBRARY = "library"


# Redacts user:password@ in URLs, up to the last @, and values whose name says that they are secret.
_USER_INFO = re.compile(r"(?<=://)[^/\s]+@")
_SECRET_NAMES = re.compile(r"password|secret|token|authorization|access_key", re.IGNORECASE)


def configure_logs(log_format: LogFormat, level: str, process: str) -> None:
    """Write the log lines of this process and its libraries to standard error."""
    renderer: structlog.types.Processor
    if log_format is LogFormat.JSON:
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[*_SHARED, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED[:-1], _as_library],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _without_secrets, renderer],
        )
    )
    handler.addFilter(_is_useful)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def get_log() -> structlog.typing.FilteringBoundLogger:
    """Return the logger; its methods take an `Action` and named values."""
    if not structlog.is_configured():
        # In commands and in programs that use the library, standard output is for data.
        structlog.configure(
            processors=[*_SHARED, structlog.dev.ConsoleRenderer(colors=False)],
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        )
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return log


def _is_useful(record: logging.LogRecord) -> bool:
    # Faust warns at each rebalance that no sensor is installed; none is needed.
    return not str(record.msg).startswith("Missing sensor state for rebalance")


def _as_library(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    line["message"] = line["event"]
    line["event"] = Action.LIBRARY.value
    return line


def _without_secrets(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in line.items():
        line[name] = _without_secret(name, value)
    return line


def _without_secret(name: str, value: Any) -> Any:
    if _SECRET_NAMES.search(name):
        return "***"
    match value:
        case None | int() | float():
            return value
        case dict():
            return {key: _without_secret(str(key), item) for key, item in value.items()}
        case list() | tuple():
            return [_without_secret(name, item) for item in value]
        case str():
            return _USER_INFO.sub("***@", value)
        case _:  # the renderers show anything else as its repr too
            return _USER_INFO.sub("***@", repr(value))


_SHARED: list[structlog.types.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
    _without_secrets,
]
