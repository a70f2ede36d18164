"""Every setting, typed, bounded and documented: `HEADRACE_<NAME>` in the environment, in `.env`, or as a file."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import DotEnvSettingsSource, SettingsConfigDict

from headrace.runtime.connection_settings import ConnectionSettings, ReadableFile, checked_store_url
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.gateway_settings import GatewaySettings, checked_networks
from headrace.runtime.secret_files import reading_secrets, secret_directories
from headrace.runtime.setting_names import PREFIX, unknown_name, variable

MIB = 1024 * 1024
ENV_FILE = ".env"


def _checked_archive_url(url: str) -> str:
    return checked_store_url(url) if url else url


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    CONSOLE = "console"


class MaintenanceJob(StrEnum):
    """A job of `headrace maintenance`."""

    EXPIRE = "expire"
    RETAIN = "retain"
    COLLECT = "collect"
    ARCHIVE = "archive"


def _checked_jobs(text: str) -> str:
    if set(text.split(",")) - {"", *MaintenanceJob}:
        raise ValueError(f"should be some of {', '.join(MaintenanceJob)}, comma-separated")
    return text


class Settings(GatewaySettings, ConnectionSettings):
    """The settings of all processes. Secrets print as `***`; set them as files or variables, never as arguments."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=ENV_FILE, extra="ignore", frozen=True)

    # Archive
    archive_url: Annotated[str, AfterValidator(_checked_archive_url)] = Field(
        "",
        description="Bucket or prefix to which `headrace archive` moves old LDOs and clips, in the form of store_url "
        "and different from it; it uses the endpoint and keys of the store; empty: no archive.",
    )
    archive_storage_class: str = Field(
        "",
        pattern=r"^[A-Z0-9_]{0,40}$",
        description="Storage class of archived objects if archive_url is s3://, for example GLACIER; empty: the "
        "default of the bucket.",
    )
    archive_after_days: float = Field(
        90.0, ge=0, le=36_500, description="Days after which LDOs and clips are archived."
    )
    archive_restored_days: float = Field(
        30.0, ge=0, le=36_500, description="Days after which restored bytes are archived again."
    )
    archive_bytes_per_s: int = Field(
        32 * MIB, ge=1024, le=16_384 * MIB, description="Maximum bytes per second that archive and restore read."
    )

    # Worker
    batch_messages_max: int = Field(
        2000, ge=1, le=5000, description="Maximum number of small events (CIDs, LDOs) in a batch."
    )
    batch_frames_max: int = Field(
        16, ge=1, le=500, description="Maximum number of large events (frames, clips) in a batch."
    )
    batches_in_flight_max: int = Field(
        4, ge=1, le=16, description="Maximum number of batches of one topic that are processed at the same time."
    )
    buffer_bytes_max: int = Field(
        128 * MIB, ge=16 * MIB, le=4096 * MIB, description="Maximum bytes of messages in the buffer of one topic."
    )
    in_flight_bytes_max: int = Field(
        64 * MIB,
        ge=16 * MIB,
        le=4096 * MIB,
        description="Maximum bytes of messages of one topic that are processed at the same time.",
    )
    retry_delay_s: float = Field(
        0.2, gt=0, le=60, description="Delay before the first retry of a transient fault, in seconds."
    )
    retry_delay_s_max: float = Field(5.0, gt=0, le=300, description="Maximum delay between retries, in seconds.")
    processing_deadline_s: float = Field(
        # Kafka reassigns partitions after 180 s of a rebalance; this ends the process earlier.
        45.0,
        gt=0,
        le=150,
        description="Seconds of retries after which a step that still fails ends the process; less than watchdog_s.",
    )
    dead_letter_quota: int = Field(
        1000,
        ge=1,
        description="Number of dead letters within dead_letter_quota_s above which the worker halts, if they outnumber "
        "the accepted messages; of each source, at most half the quota counts.",
    )
    dead_letter_quota_s: float = Field(60.0, gt=0, description="Window of dead_letter_quota in seconds.")
    watchdog_s: float = Field(
        90.0,
        ge=5,
        le=3600,
        description="Seconds without progress, while work is waiting, after which the process exits.",
    )

    # Relay and consumers
    relay_rows_max: int = Field(
        2000, ge=1, le=5000, description="Maximum number of announcements in one Kafka transaction."
    )
    relay_poll_s: float = Field(
        1.0, gt=0, le=60, description="Seconds between queries of the outbox without a notification."
    )
    consumer_events_max: int = Field(
        64, ge=1, le=1000, description="Maximum number of events that a consumer polls at a time."
    )

    # Dead letters and retention
    redrive_attempts_max: int = Field(5, ge=1, le=100, description="Maximum number of redrives of one dead letter.")
    dead_letter_retention_days: int = Field(
        90,
        ge=1,
        le=36_500,
        description="Days that a dead letter is kept.",
    )
    outbox_retention_days: int = Field(
        30, ge=1, le=36_500, description="Days that published rows of the outbox are kept."
    )
    collect_grace_hours: float = Field(
        24.0,
        ge=0,
        le=8760,
        description="Hours before an object without a row is collected: its row may not be committed yet.",
    )
    quarantine_days: float = Field(
        30.0,
        ge=0,
        le=36_500,
        description="Days after `headrace recover` in which orphans are moved to quarantine/, and days that they stay.",
    )
    staging_retention_days: float = Field(
        8.0,
        ge=0,
        le=1000,
        description="Days that a staged body is kept: at least the 7 days of the input topics and `spool_days_max`.",
    )
    spool_days_max: float = Field(
        1.0, ge=0, le=365, description="Days that a device's spool may hold an event, such as its longest time offline."
    )

    maintenance_hour: int = Field(
        2, ge=0, le=23, description="Hour of the day (UTC) from which `headrace maintenance` carries out its jobs."
    )
    maintenance_jobs: Annotated[str, AfterValidator(_checked_jobs)] = Field(
        ",".join(MaintenanceJob),
        description="Jobs of `headrace maintenance`, comma-separated: expire (dead letters and announcements past "
        "their retention), retain (records past a rule of `headrace retention`), collect (orphans and abandoned bodies "
        "in the store), archive (if archive_url is set).",
    )

    # Transfer
    transfer_sites: ReadableFile = Field(
        "", description="TOML file of the sites whose bodies `headrace transfer` brings; docs/central.md."
    )
    transfer_dir: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        Path(".headrace/transfer"),
        description="Directory of bodies that are under way, which go on after a restart; room for one body per site.",
    )

    # URLs
    url_networks: Annotated[str, AfterValidator(checked_networks)] = Field(
        "",
        description="Networks from which URLs may be fetched besides the public internet, comma-separated: "
        "plant=10.4.0.0/16 for the site plant, 192.168.10.0/24 for every site.",
    )
    url_workers: int = Field(
        8, ge=1, le=64, description="Number of URLs that are fetched at the same time; each is held in memory."
    )
    url_bytes_max: int = Field(
        64 * MIB, ge=1, le=512 * MIB, description="Maximum size of a fetched file in bytes, after decoding."
    )
    url_total_s_max: float = Field(
        120.0,
        gt=0,
        le=3600,
        description="Timeout in seconds of one URL with its redirects, without the waits for its host.",
    )
    url_stall_s_max: float = Field(
        15.0, gt=0, le=600, description="Seconds in which a response must begin, and then send each 4 KiB or end."
    )
    url_attempts_max: int = Field(
        3, ge=1, le=20, description="Maximum number of attempts for a URL with transient failures."
    )
    url_retry_delay_s: float = Field(
        1.0, gt=0, le=60, description="Delay before the second attempt in seconds; it doubles with each attempt."
    )
    url_retry_delay_s_max: float = Field(60.0, gt=0, le=600, description="Maximum delay between attempts, in seconds.")
    url_host_requests_max: int = Field(2, ge=1, le=64, description="Maximum number of concurrent requests to one host.")
    url_host_pause_s: float = Field(
        0.2, ge=0, le=60, description="Minimum seconds between the starts of two requests to one host."
    )
    url_robots: Literal["on", "off"] = Field("on", description="Whether robots.txt is obeyed.")
    url_opt_outs: Literal["on", "off"] = Field(
        "on", description="Whether responses with noai in X-Robots-Tag, or with tdm-reservation, are rejected."
    )
    url_agent: str = Field(
        "headrace",
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]([ -~]*[!-~])?$",
        description="User-Agent of fetches; in robots.txt, the part before the slash is the product token.",
    )

    # Sites
    sites_file: Path = Field(
        Path("sites.toml"), description="File of `headrace mirror` and `headrace sites` that lists sites and flows."
    )

    # Every process
    secrets_dir: str = Field(
        "",
        description="Directories of files with settings, separated by colons: a file is named like the variable, in "
        "upper or lower case, and holds its value; the last directory takes precedence, the environment and `.env` "
        "over all. Empty: none.",
    )
    start_wait_s_max: float = Field(60.0, ge=0, le=3600, description="Seconds to wait for a service at start-up.")
    health_host: str = Field("127.0.0.1", description="Listen address of /metrics, /livez and /readyz.")
    health_port: int = Field(0, ge=0, le=65535, description="Port of /metrics, /livez and /readyz; 0: any free port.")
    disk_free_bytes_min: int = Field(
        1024 * MIB,
        ge=0,
        le=1024 * 1024 * MIB,
        description="Free bytes of a file system of the native stack below which status, log and metric report it.",
    )
    log_format: LogFormat = Field(LogFormat.CONSOLE, description="Format of log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")
    state_dir: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        Path(".headrace"), description="Directory of the native stack's state."
    )
    minio_binary: str = Field(
        "", description="MinIO binary of the native stack; empty: the one that was built earlier, or the first in PATH."
    )

    @model_validator(mode="after")
    def _classes_are_s3s(self) -> Self:
        if self.archive_storage_class and not self.archive_url.startswith("s3://"):
            raise ValueError(
                f"{variable('archive_storage_class')} needs {variable('archive_url')} to be an s3:// address"
            )
        return self

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        """Require timeouts in ascending order: the inner one reports the cause, the outer one only ends the process."""
        for smaller, larger in (
            ("postgres_statement_s_max", "processing_deadline_s"),
            ("processing_deadline_s", "watchdog_s"),
            # A rebalance blocks the other members until the session of a lost one has timed out.
            ("kafka_session_s", "watchdog_s"),
        ):
            if getattr(self, smaller) >= getattr(self, larger):
                raise ValueError(
                    f"{variable(smaller)} ({getattr(self, smaller):g} s) should be less than "
                    f"{variable(larger)} ({getattr(self, larger):g} s)"
                )
        if self.retry_delay_s > self.retry_delay_s_max:
            raise ValueError(
                f"{variable('retry_delay_s')} ({self.retry_delay_s:g} s) should be at most "
                f"{variable('retry_delay_s_max')} ({self.retry_delay_s_max:g} s)"
            )
        return self


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment, `.env` and files of secrets_dir; `overrides` win.

    Raises:
        HeadraceError: a setting is invalid or unknown, or a file cannot be read; the message names it and the allowed
            values, never a secret.
    """
    env_file: Any = overrides.get("_env_file", ENV_FILE)
    lines = DotEnvSettingsSource(Settings, env_file=env_file).env_vars if env_file else {}
    variables = {**lines, **{name.lower(): value for name, value in os.environ.items()}}
    directories = secret_directories(variables.get(variable("secrets_dir").lower()) or "")
    given = {"the environment": os.environ, str(env_file): lines, **directories}
    if unknown := unknown_name(PREFIX, Settings.model_fields, given):
        raise _wrong(f"there is no setting {unknown[0]}", unknown[1])
    try:
        with reading_secrets():
            return Settings(**({"_secrets_dir": list(directories)} | overrides))  # type: ignore[arg-type]
    except ValidationError as error:
        raise _invalid(error) from None


def _invalid(error: ValidationError) -> HeadraceError:
    first = error.errors(include_url=False, include_input=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return _wrong(message, "Correct one of them where it is set.")
    name = str(first["loc"][0])
    about = Settings.model_fields[name].description if name in Settings.model_fields else ""
    return _wrong(
        f"{variable(name)} is not usable: {message[0].lower()}{message[1:]}",
        f"{about} Correct it in the environment, in .env or in its file.".strip(),
    )


def _wrong(what: str, hint: str) -> HeadraceError:
    return HeadraceError("setting_invalid", what, hint=hint, exit_code=Exit.USAGE)
