"""Every setting, typed, bounded and documented: `HEADRACE_<NAME>` in the environment or in `.env`."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import DotEnvSettingsSource, SettingsConfigDict

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.gateway_settings import GatewaySettings, checked_networks
from headrace.runtime.setting_names import PREFIX, unknown_name, variable

MIB = 1024 * 1024
ENV_FILE = ".env"


def _checked_store_url(url: str) -> str:
    parts = urlsplit(url)
    match parts.scheme:
        case "s3" | "gs" | "az" if parts.netloc:
            return url
        case "file" if not parts.netloc and parts.path.strip("/"):
            return url
        case _:  # the value is not repeated: it may hold a password
            raise ValueError("should be s3://bucket, gs://bucket, az://container or file:///directory")


def _checked_archive_url(url: str) -> str:
    return _checked_store_url(url) if url else url


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    CONSOLE = "console"


class Settings(GatewaySettings):
    """What a process may be told. Secrets print as `***` and belong into the environment, never into arguments."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=ENV_FILE, extra="ignore", frozen=True)

    # Kafka
    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka's bootstrap servers, host:port, comma-separated.")
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How to speak to Kafka."
    )
    kafka_sasl_mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"] = Field(
        "SCRAM-SHA-512", description="How to log in at Kafka, where kafka_security begins with SASL."
    )
    kafka_username: str = Field("", description="Who logs in at Kafka.")
    kafka_password: SecretStr = Field(SecretStr(""), description="The password for Kafka.")
    kafka_ca_file: str = Field("", description="Certificate authorities for Kafka's TLS; empty: the system's.")
    kafka_replicas: int = Field(1, ge=1, le=7, description="Replicas of each topic; 3 where there are three brokers.")
    kafka_partitions: int = Field(4, ge=1, le=1024, description="Partitions of each topic when it is created.")
    kafka_session_s: float = Field(
        # A broker allows no less than 6 s unless it is told so (group.min.session.timeout.ms).
        30.0,
        ge=6,
        le=300,
        description="Seconds after which Kafka hands on the partitions of a member that fell silent; "
        "less than watchdog_s.",
    )

    # Catalog
    postgres_dsn: SecretStr = Field(
        SecretStr("postgresql://headrace@127.0.0.1:5432/headrace"), description="Where the catalog is."
    )
    postgres_connections_max: int = Field(6, ge=2, le=100, description="Connections that one process may hold.")
    postgres_statement_s_max: float = Field(
        20.0, gt=0, le=150, description="Seconds after which a statement is ended; less than processing_deadline_s."
    )

    # Blob store
    store_url: Annotated[str, AfterValidator(_checked_store_url)] = Field(
        "s3://headrace", description="Where blobs are: s3://bucket, gs://bucket, az://container or file:///directory."
    )
    store_endpoint: str = Field(
        "", description="The S3 endpoint's address where it is not Amazon's, for example MinIO."
    )
    store_region: str = Field("us-east-1", description="The bucket's region.")
    store_access_key: SecretStr = Field(SecretStr(""), description="The store's access key.")
    store_secret_key: SecretStr = Field(SecretStr(""), description="The store's secret key.")

    # Archive
    archive_url: Annotated[str, AfterValidator(_checked_archive_url)] = Field(
        "",
        description="Where `headrace archive` puts old LDOs and clips: a bucket or prefix like store_url, apart from "
        "it; the store's endpoint and keys open it; empty: nowhere.",
    )
    archive_storage_class: str = Field(
        "",
        pattern=r"^[A-Z0-9_]{0,40}$",
        description="The storage class of archived objects where archive_url is s3://, for example GLACIER; empty: the "
        "bucket's own.",
    )
    archive_after_days: float = Field(
        90.0, ge=0, le=36_500, description="Days after which LDOs and clips go to the archive."
    )
    archive_restored_days: float = Field(
        30.0, ge=0, le=36_500, description="Days that restored bytes stay before they go to the archive again."
    )
    archive_bytes_per_s: int = Field(
        32 * MIB, ge=1024, le=16_384 * MIB, description="Bytes a second that archive and restore read, at the most."
    )

    # Worker
    batch_messages_max: int = Field(500, ge=1, le=5000, description="Small events (CIDs, LDOs) in one batch.")
    batch_frames_max: int = Field(16, ge=1, le=500, description="Large events (frames, clips) in one batch.")
    batch_linger_s: float = Field(0.01, gt=0, le=5, description="Seconds a batch waits to become full.")
    batches_in_flight_max: int = Field(4, ge=1, le=16, description="Batches of one topic that are stored at a time.")
    buffer_bytes_max: int = Field(
        128 * MIB, ge=16 * MIB, le=4096 * MIB, description="Bytes of messages that wait in one topic's buffer."
    )
    in_flight_bytes_max: int = Field(
        64 * MIB, ge=16 * MIB, le=4096 * MIB, description="Bytes of messages of one topic that are stored at a time."
    )
    retry_delay_s: float = Field(0.2, gt=0, le=60, description="Seconds before the first retry of a transient fault.")
    retry_delay_s_max: float = Field(5.0, gt=0, le=300, description="Seconds that a retry waits at the most.")
    processing_deadline_s: float = Field(
        # Kafka hands partitions on after 180 s of a rebalance: what cannot be stored has ended the process before.
        45.0,
        gt=0,
        le=150,
        description="Seconds after which a batch that cannot be stored ends the process; less than watchdog_s.",
    )
    dead_letter_quota: int = Field(
        1000,
        ge=1,
        description="Dead letters within the quota's window that halt the worker, if they outnumber the good.",
    )
    dead_letter_quota_s: float = Field(60.0, gt=0, description="Seconds of the quota's window.")
    watchdog_s: float = Field(
        90.0, ge=5, le=3600, description="Seconds without progress, with work waiting, before exit."
    )

    # Relay and consumers
    relay_rows_max: int = Field(2000, ge=1, le=5000, description="Announcements in one Kafka transaction.")
    relay_poll_s: float = Field(
        1.0, gt=0, le=60, description="Seconds between looks at the outbox without a notification."
    )
    consumer_events_max: int = Field(64, ge=1, le=1000, description="Events that a consumer takes up at a time.")

    # Dead letters and cleaning up
    redrive_attempts_max: int = Field(
        5, ge=1, le=100, description="Times that a dead letter's message is published again, at the most."
    )
    dead_letter_retention_days: int = Field(
        90,
        ge=1,
        le=36_500,
        description="Days that a dead letter is kept with its bytes; `headrace fsck --repair` ends them.",
    )
    outbox_retention_days: int = Field(
        30, ge=1, le=36_500, description="Days that the catalog remembers each announcement that is out."
    )
    collect_grace_hours: float = Field(
        24.0, ge=0, le=8760, description="Hours that an object without a row is left alone: it may be on its way."
    )
    staging_retention_days: float = Field(
        8.0, ge=0, le=365, description="Days that a staged body is kept; longer than the input topics keep its message."
    )

    # URLs
    url_networks: Annotated[str, AfterValidator(checked_networks)] = Field(
        "",
        description="Networks from which URLs may be fetched beside the public internet: CIDRs, comma-separated.",
    )
    url_workers: int = Field(8, ge=1, le=64, description="URLs that one run fetches at a time; each is held in memory.")
    url_bytes_max: int = Field(
        64 * MIB, ge=1, le=512 * MIB, description="Bytes that a URL may lead to, counted once they are decoded."
    )
    url_total_s_max: float = Field(
        120.0, gt=0, le=3600, description="Seconds that one URL may take, with its redirects, waiting turns left out."
    )
    url_stall_s_max: float = Field(
        15.0, gt=0, le=600, description="Seconds in which an answer must begin, and then bring 4 KiB, or its end."
    )
    url_attempts_max: int = Field(3, ge=1, le=20, description="Times that a URL is tried where that may help.")
    url_retry_delay_s: float = Field(1.0, gt=0, le=60, description="Seconds before the second try; then twice as long.")
    url_retry_delay_s_max: float = Field(60.0, gt=0, le=600, description="Seconds that a retry waits at the most.")
    url_host_requests_max: int = Field(2, ge=1, le=64, description="Requests that one host gets at a time.")
    url_host_pause_s: float = Field(
        0.2, ge=0, le=60, description="Seconds between the beginnings of two requests to one host."
    )
    url_robots: Literal["on", "off"] = Field("on", description="Whether robots.txt is read and kept to.")
    url_opt_outs: Literal["on", "off"] = Field(
        "on", description="Whether noai in X-Robots-Tag, and tdm-reservation, keep an answer from being taken."
    )
    url_agent: str = Field(
        "headrace",
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]([ -~]*[!-~])?$",
        description="The User-Agent of fetches; robots.txt knows it by what stands before the slash.",
    )

    # Every process
    start_wait_s_max: float = Field(60.0, ge=0, le=3600, description="Seconds to wait for a service at start-up.")
    health_host: str = Field("127.0.0.1", description="Where /metrics, /livez and /readyz listen.")
    health_port: int = Field(0, ge=0, le=65535, description="Their port; 0: any free one.")
    log_format: LogFormat = Field(LogFormat.CONSOLE, description="json or console.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")
    state_dir: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        Path(".headrace"), description="Where the native stack keeps its state on this machine."
    )
    minio_binary: str = Field(
        "", description="The MinIO program of the native stack; empty: the one that was built before, or PATH's."
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
        """Each of these ends what the next one would end without knowing why."""
        for smaller, larger in (
            ("postgres_statement_s_max", "processing_deadline_s"),
            ("processing_deadline_s", "watchdog_s"),
            # The others of a group stand still until a silent member's time is up: that must not end them too.
            ("kafka_session_s", "watchdog_s"),
        ):
            if getattr(self, smaller) >= getattr(self, larger):
                raise ValueError(
                    f"{variable(smaller)} ({getattr(self, smaller):g} s) should be less than "
                    f"{variable(larger)} ({getattr(self, larger):g} s)"
                )
        return self


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment and `.env`; `overrides` win.

    Raises:
        HeadraceError: a setting is wrong, or there is none of that name; it names the setting and what is allowed,
            never a secret's value.
    """
    env_file: Any = overrides.get("_env_file", ENV_FILE)
    lines = DotEnvSettingsSource(Settings, env_file=env_file).env_vars if env_file else ()
    if unknown := unknown_name(PREFIX, Settings.model_fields, {"the environment": os.environ, str(env_file): lines}):
        raise _wrong(f"there is no setting {unknown[0]}", unknown[1])
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        raise _invalid(error) from None


def _invalid(error: ValidationError) -> HeadraceError:
    first = error.errors(include_url=False, include_input=False)[0]
    said = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return _wrong(said, "Correct one of them in the environment or in .env.")
    name = str(first["loc"][0])
    about = Settings.model_fields[name].description if name in Settings.model_fields else ""
    return _wrong(
        f"{variable(name)} is not usable: {said[0].lower()}{said[1:]}",
        f"{about} Correct it in the environment or in .env.".strip(),
    )


def _wrong(what: str, hint: str) -> HeadraceError:
    return HeadraceError("setting_invalid", what, hint=hint, exit_code=Exit.USAGE)
