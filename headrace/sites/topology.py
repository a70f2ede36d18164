"""What `sites.toml` says: the sites with their Kafka clusters, and what flows between them. Pure: text in, values out.

A flow mirrors topics of one site into the cluster of another. The mirrored topic is called `SITE.TOPIC`, so a site's
name has no dot; the name stands in the file of the target, where no other site can claim it.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.events import Kind
from headrace.schemas.topics import SITE_NAME, Topic, ingested_topic, input_topic

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_KEY = re.compile(r"""\s*(?P<open>\[{0,2})\s*(?P<path>[\w.\-"']+)\s*(?:\]{1,2}|=)""")
_HINT = "correct it there; docs/sites.md lists every key of the file"


class Carries(StrEnum):
    """What a flow mirrors."""

    RAW = "raw"
    """What devices publish: the target ingests it."""
    INGESTED = "ingested"
    """Announcements of a site that ingests for itself; the target fetches the blobs that it lacks."""
    METADATA = "metadata"
    """Announcements; the target fetches bytes only when they are asked for."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretReference(_Model):
    """Where a secret is: in an environment variable, or in a file."""

    env: str = Field("", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")
    file: str = ""

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if bool(self.env) == bool(self.file):
            raise ValueError('should be { env = "VARIABLE" } or { file = "/path" }')
        return self


def _checked_hours(hours: tuple[str, ...]) -> tuple[str, ...]:
    for text in hours:
        if not _HOURS.fullmatch(text):
            raise ValueError(f'"{text}" should be HH:MM-HH:MM in UTC, for example "20:00-06:00"')
    return hours


class Login(_Model):
    """A user of a Kafka cluster and its password."""

    username: str = Field(min_length=1)
    password: SecretReference


class Site(_Model):
    """One site: how its Kafka is reached, in the words of the settings HEADRACE_KAFKA_*."""

    bootstrap: str = Field(pattern=r"^[^\s,:/]+:\d+(,[^\s,:/]+:\d+)*$")
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"] = "SCRAM-SHA-512"
    username: str = ""
    password: SecretReference | None = None
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    replicas: int = Field(1, ge=1, le=7)

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if self.security.startswith("SASL") and not (self.username and self.password):
            raise ValueError(f"{self.security} needs username and password")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file should be set together")
        return self


class Flow(_Model):
    """What is mirrored from one site to another, and the limits of the link.

    `hours` are in UTC; empty: always. `cut_hours_max` is the longest cut of the link that loses nothing.
    """

    source: str = Field(alias="from", pattern=SITE_NAME)
    target: str = Field(alias="to", pattern=SITE_NAME)
    carries: Carries = Carries.RAW
    kinds: tuple[Kind, ...] = Field(tuple(Kind), min_length=1)
    bytes_per_s: int | None = Field(None, ge=32 * 1024)
    hours: Annotated[tuple[str, ...], AfterValidator(_checked_hours)] = ()
    cut_hours_max: float = Field(72.0, gt=0, le=24 * 365)
    login: Login | None = None
    """With which the link writes at the target; by default with the target's own login."""

    @property
    def name(self) -> str:
        """The name of the link."""
        return f"{self.source}->{self.target}"

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topics of the source that are mirrored."""
        topic_of = input_topic if self.carries is Carries.RAW else ingested_topic
        return tuple(topic_of(kind) for kind in self.kinds)

    def mirrored(self, topic: str) -> str:
        """Return the name of a mirrored topic at the target."""
        return f"{self.source}.{topic}"

    def is_open(self, at: datetime) -> bool:
        """Return whether the link may be used at this time."""
        clock = at.astimezone(UTC).time()
        return not self.hours or any(_covers(text, clock) for text in self.hours)


def _covers(hours: str, clock: time) -> bool:
    start, end = (time.fromisoformat(part) for part in hours.split("-"))
    return start <= clock < end if start < end else clock >= start or clock < end


class Topology(_Model):
    """The whole file."""

    sites: dict[Annotated[str, Field(pattern=SITE_NAME)], Site]
    flows: tuple[Flow, ...] = ()

    def flows_to(self, target: str) -> tuple[Flow, ...]:
        """Return the flows into a site."""
        return tuple(flow for flow in self.flows if flow.target == target)

    @property
    def targets(self) -> tuple[str, ...]:
        """The sites that something is mirrored to."""
        return tuple(dict.fromkeys(flow.target for flow in self.flows))

    def only_target(self, asked: str | None, *, where: str) -> str:
        """Return the target of a mirror: the one that was asked for, or the only one.

        Raises:
            HeadraceError: nothing flows there, or there are several.
        """
        if asked in self.targets:
            return asked
        if asked is None and len(self.targets) == 1:
            return self.targets[0]
        what = f"no flow leads to {asked!r}" if asked else f"flows lead to {', '.join(self.targets) or 'no site'}"
        raise HeadraceError(
            "target_unknown",
            what,
            where=where,
            hint="name one with --target" if self.targets else "add [[flows]] to the file",
            exit_code=Exit.USAGE,
        )


def parse(text: str, *, name: str) -> Topology:
    """Return what a file says; `name` is that of the file, for errors.

    Raises:
        HeadraceError: it is not TOML, breaks a rule, or has a cycle; the message names the line, and no value of it.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _invalid(f"the file is not TOML: {error}", name) from None
    try:
        topology = Topology.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        key = ".".join(str(part) for part in first["loc"] if part != "[key]")
        raise _invalid(f"{key}: {message}", f"{name}, line {_line_of(text, first['loc'])}") from None
    _check_flows(topology, text, name)
    return topology


def cycle_of(flows: Sequence[Flow]) -> tuple[str, ...]:
    """Return the sites of a cycle, the first one again at the end; empty if there is none."""
    following: dict[str, list[str]] = {}
    for flow in flows:
        following.setdefault(flow.source, []).append(flow.target)
    done: set[str] = set()

    def visit(site: str, path: tuple[str, ...]) -> tuple[str, ...]:
        if site in path:
            return (*path[path.index(site) :], site)
        if site not in done:
            for other in following.get(site, ()):
                if cycle := visit(other, (*path, site)):
                    return cycle
            done.add(site)
        return ()

    for site in following:
        if cycle := visit(site, ()):
            return cycle
    return ()


def _check_flows(topology: Topology, text: str, name: str) -> None:
    pairs: set[tuple[str, str]] = set()
    for index, flow in enumerate(topology.flows):
        where = f"{name}, line {_line_of(text, ('flows', index))}"
        for key, site in (("from", flow.source), ("to", flow.target)):
            if site not in topology.sites:
                raise _invalid(f"flows.{index}.{key}: there is no [sites.{site}]", where)
        if flow.login is not None and not topology.sites[flow.target].security.startswith("SASL"):
            raise _invalid(f"flows.{index}.login: {flow.target} has no SASL, which a login needs", where)
        if (flow.source, flow.target) in pairs:
            raise _invalid(f"flows.{index}: a second flow from {flow.source} to {flow.target}", where)
        pairs.add((flow.source, flow.target))
        if cycle := cycle_of(topology.flows[: index + 1]):
            raise _invalid(f"the flows form a cycle, {' -> '.join(cycle)}, in which messages would circulate", where)


def _line_of(text: str, location: Sequence[str | int]) -> int:
    """Return the line of the nearest table or key that encloses a place in the file."""
    wanted, best, best_line = tuple(part for part in location if part != "[key]"), 0, 1
    for path, line in _places(text).items():
        if len(path) > best and wanted[: len(path)] == path:
            best, best_line = len(path), line
    return best_line


def _places(text: str) -> Mapping[tuple[str | int, ...], int]:
    """Return the line of each table and key; elements of arrays of tables are counted from 0."""
    places: dict[tuple[str | int, ...], int] = {}
    counts: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        match = _KEY.match(line)
        if match is None:
            continue
        path: tuple[Any, ...] = tuple(part.strip("\"'") for part in match["path"].split("."))
        if match["open"] == "[[":
            counts[path] = counts.get(path, -1) + 1
            path = table = (*path, counts[path])
        elif match["open"] == "[":
            # A table below an element of an array belongs to its last element.
            above = path[:-1]
            path = table = (*above, counts[above], path[-1]) if above in counts else path
        else:
            path = (*table, *path)
        places.setdefault(path, number)
    return places


def _invalid(what: str, where: str) -> HeadraceError:
    return HeadraceError("sites_invalid", what, where=where, hint=_HINT, exit_code=Exit.USAGE)
