"""The settings of connections to Kafka, PostgreSQL and the blob store."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings

from headrace.runtime.setting_names import variable


def checked_store_url(url: str) -> str:
    """Return the URL of a store as it is written.

    Raises:
        ValueError: it names no bucket, container or directory; the URL is not in the message.
    """
    parts = urlsplit(url)
    match parts.scheme:
        case "s3" | "gs" | "az" if parts.netloc:
            return url
        case "file" if not parts.netloc and parts.path.strip("/"):
            return url
        case _:  # the value is not repeated: it may hold a password
            raise ValueError("should be s3://bucket, gs://bucket, az://container or file:///directory")


def _readable(path: str) -> str:
    if path:
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise ValueError(f"the file {path} cannot be read: {error.strerror}") from None
    return path


ReadableFile = Annotated[str, AfterValidator(_readable)]
"""The path of a file that can be read, or an empty string."""


def with_login(url: str, user: str, password: str) -> str:
    """Return a URL with a user and a password where it has none; what is not a URL is returned as it is."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    own_user, _, own_password = login.partition(":")
    own_user, own_password = own_user or quote(user, safe=""), own_password or quote(password, safe="")
    if not own_user and not own_password:
        return url
    return parts._replace(netloc=f"{own_user}{f':{own_password}' if own_password else ''}@{hosts}").geturl()


class ConnectionSettings(BaseSettings):
    """The settings of connections to Kafka, PostgreSQL and the blob store."""

    # Kafka
    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Bootstrap servers, as comma-separated host:port.")
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Security protocol of the Kafka connection."
    )
    kafka_sasl_mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", "OAUTHBEARER"] = Field(
        "SCRAM-SHA-512", description="SASL mechanism, if kafka_security is SASL_PLAINTEXT or SASL_SSL."
    )
    kafka_username: str = Field("", description="SASL user name.")
    kafka_password: SecretStr = Field(SecretStr(""), description="SASL password.")
    kafka_ca_file: ReadableFile = Field(
        "", description="File of CA certificates for TLS to Kafka (PEM); empty: those of the system."
    )
    kafka_cert_file: ReadableFile = Field(
        "", description="File of the certificate that Kafka asks for (PEM), with intermediate ones; empty: none."
    )
    kafka_key_file: ReadableFile = Field("", description="File of the private key of kafka_cert_file (PEM).")
    kafka_key_password: SecretStr = Field(
        SecretStr(""), description="Password of kafka_key_file; empty: the key is not encrypted."
    )
    kafka_oauth_token_url: str = Field(
        "", pattern=r"^(https?://.+)?$", description="Token endpoint, if kafka_sasl_mechanism is OAUTHBEARER."
    )
    kafka_oauth_client_id: str = Field("", description="Client ID at the token endpoint.")
    kafka_oauth_client_secret: SecretStr = Field(SecretStr(""), description="Client secret at the token endpoint.")
    kafka_oauth_scope: str = Field("", description="Scope that is asked for at the token endpoint; empty: its default.")
    kafka_oauth_ca_file: ReadableFile = Field(
        "", description="File of CA certificates for TLS to the token endpoint (PEM); empty: those of the system."
    )
    kafka_replicas: int = Field(
        1, ge=1, le=7, description="Replication factor of each topic; use 3 with three or more brokers."
    )
    kafka_partitions: int = Field(
        4, ge=1, le=1024, description="Number of partitions with which each topic is created."
    )
    kafka_session_s: float = Field(
        # A broker allows no less than 6 s by default (group.min.session.timeout.ms).
        30.0,
        ge=6,
        le=300,
        description="Session timeout of the consumer group in seconds, after which Kafka reassigns the partitions of a "
        "member that sent no heartbeat; less than watchdog_s.",
    )

    # Catalog
    postgres_user: str = Field("", description="PostgreSQL user, where postgres_dsn names none.")
    postgres_password: SecretStr = Field(
        SecretStr(""), description="Password of the PostgreSQL user, where postgres_dsn has none."
    )
    postgres_dsn: SecretStr = Field(
        SecretStr("postgresql://headrace@127.0.0.1:5432/headrace"),
        description="Connection URI of the PostgreSQL database.",
        validate_default=True,
    )
    postgres_connections_max: int = Field(
        6, ge=2, le=100, description="Maximum number of PostgreSQL connections of one process."
    )
    postgres_statement_s_max: float = Field(
        20.0, gt=0, le=150, description="Statement timeout in seconds; less than processing_deadline_s."
    )
    postgres_worker_password: SecretStr = Field(
        SecretStr(""),
        description="Password of the workers' login, which `headrace init --roles` creates or changes; empty: none.",
    )
    postgres_relay_password: SecretStr = Field(
        SecretStr(""), description="As postgres_worker_password, for the login of relays."
    )
    postgres_gateway_password: SecretStr = Field(
        SecretStr(""), description="As postgres_worker_password, for the login of gateways."
    )
    postgres_capture_password: SecretStr = Field(
        SecretStr(""), description="As postgres_worker_password, for the login of capture workers."
    )
    postgres_operator_password: SecretStr = Field(
        SecretStr(""), description="As postgres_worker_password, for the login of maintenance and operators."
    )

    # Blob store
    store_url: Annotated[str, AfterValidator(checked_store_url)] = Field(
        "s3://headrace", description="Blob store: s3://bucket, gs://bucket, az://container or file:///directory."
    )
    store_endpoint: str = Field("", description="URL of an S3 endpoint other than AWS, for example MinIO.")
    store_region: str = Field("us-east-1", description="Region of the bucket.")
    store_access_key: SecretStr = Field(SecretStr(""), description="Access key of the store.")
    store_secret_key: SecretStr = Field(SecretStr(""), description="Secret key of the store.")
    store_ca_file: ReadableFile = Field(
        "",
        description="File of CA certificates for TLS to the store (PEM), besides those of the system; empty: only "
        "those of the system.",
    )

    @field_validator("postgres_dsn")
    @classmethod
    def _with_login(cls, dsn: SecretStr, info: ValidationInfo) -> SecretStr:
        user, password = info.data.get("postgres_user", ""), info.data.get("postgres_password", SecretStr(""))
        try:
            return SecretStr(with_login(dsn.get_secret_value(), user, password.get_secret_value()))
        except ValueError:
            return dsn  # whoever connects says that it is invalid

    @model_validator(mode="after")
    def _kafka_has_what_it_needs(self) -> Self:
        if bool(self.kafka_cert_file) != bool(self.kafka_key_file):
            raise ValueError(f"{variable('kafka_cert_file')} and {variable('kafka_key_file')} should be set together")
        if self.kafka_security.startswith("SASL") and self.kafka_sasl_mechanism == "OAUTHBEARER":
            for name in ("kafka_oauth_token_url", "kafka_oauth_client_id"):
                if not getattr(self, name):
                    raise ValueError(f"{variable(name)} should be set, because the mechanism is OAUTHBEARER")
        return self
