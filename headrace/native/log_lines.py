"""The lines of a stack's log files: JSON of the service, and the formats of Kafka, PostgreSQL and Valkey."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

LEVELS = ("debug", "info", "warning", "error")

_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,6})\d*)?(?:Z|\+00:00| UTC)? ?")
_VALKEY = re.compile(r"\d+:[A-Z] (\d\d \w{3} \d{4} \d\d:\d\d:\d\d)\.(\d{3}) ([.\-*#]) ")
_VALKEY_LEVELS = {".": "debug", "-": "info", "*": "info", "#": "warning"}
_LEVEL = re.compile(
    r"^(?:\[[^\]]*\] )?(?P<word>TRACE|DEBUG\d?|INFO|LOG|NOTICE|WARN(?:ING)?|ERROR|FATAL|PANIC)(?=[:\s]):? *"
)
_LEVEL_OF = {
    "TRACE": "debug",
    "DEBUG": "debug",
    "WARN": "warning",
    "WARNING": "warning",
    "ERROR": "error",
    "FATAL": "error",
    "PANIC": "error",
}
_KNOWN = ("event", "process", "level", "timestamp")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line: `time` is UTC as `YYYY-MM-DDTHH:MM:SS.ffffffZ`, empty where the line has none."""

    process: str
    time: str
    level: str
    text: str
    members: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The place of its level in LEVELS."""
        return LEVELS.index(self.level)

    def shown(self) -> str:
        """Return the text with its members as `name=value`."""
        return " ".join([self.text, *(f"{name}={_value(value)}" for name, value in self.members.items())])


def parsed(process: str, lines: Iterable[str]) -> Iterator[LogLine]:
    """Yield the lines of a process; one without a time, as in a traceback, has time and level of the line before."""
    time, level = "", "info"
    for text in lines:
        line = _json_line(process, text) or _server_line(process, text)
        if line is None:
            line = LogLine(process, time, level, text)
        time, level = line.time, line.level
        yield line


def _json_line(process: str, text: str) -> LogLine | None:
    if not text.startswith("{"):
        return None
    try:
        content = json.loads(text)
        time, level, event = str(content["timestamp"]), str(content.get("level", "info")), str(content["event"])
    except (ValueError, KeyError, TypeError):
        return None
    members = {name: value for name, value in content.items() if name not in _KNOWN}
    if event == "library":
        event = str(members.pop("message", event))
    return LogLine(process, time, level if level in LEVELS else "error", event, members)


def _server_line(process: str, text: str) -> LogLine | None:
    if match := _VALKEY.match(text):
        # Its times are local.
        time = datetime.strptime(match[1], "%d %b %Y %H:%M:%S").astimezone(UTC)
        stamp = f"{time:%Y-%m-%dT%H:%M:%S}.{match[2]}000Z"
        return LogLine(process, stamp, _VALKEY_LEVELS[match[3]], text[match.end() :])
    if match := _ISO.match(text):
        rest = text[match.end() :]
        word = _LEVEL.match(rest)
        level = _LEVEL_OF.get(word["word"].rstrip("12345"), "info") if word else "info"
        stamp = f"{match[1]}T{match[2]}.{(match[3] or '').ljust(6, '0')}Z"
        return LogLine(process, stamp, level, rest[word.end() :] if word else rest)
    return None


def _value(value: object) -> str:
    if isinstance(value, str):
        return value if value and not re.search(r"[\s=]", value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)
