"""The settings of gateways and capture workers."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings

from headrace.runtime.addresses import networks_of, site_networks
from headrace.runtime.connection_settings import with_login
from headrace.runtime.setting_names import variable

SECRET_CHARACTERS_MIN = 32  # 128 bits or more, written in hexadecimal digits
SECRET_CHARACTERS_DISTINCT_MIN = 10  # 32 random hexadecimal digits have fewer once in 10,000
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MIB = 1024 * 1024


def checked_networks(text: str) -> str:
    """Return a comma-separated list of networks as it is written.

    Raises:
        ValueError: an entry is not a network.
    """
    try:
        networks_of(text)
    except ValueError:
        raise ValueError("should be networks like 192.168.10.0/24 or plant=10.4.0.0/16, comma-separated") from None
    return text


def checked_private_networks(text: str) -> str:
    """Return a comma-separated list of private networks as it is written.

    Raises:
        ValueError: an entry is not a private network.
    """
    try:
        site_networks(text, "")
    except ValueError:
        raise ValueError("should be private networks like 10.1.0.0/16 or plant=10.4.0.0/16, comma-separated") from None
    return text


def checked_secret(secret: str) -> str:
    """Return a secret that is hard to guess.

    Raises:
        ValueError: it is too short, or repeats a few characters; the secret is not in the message.
    """
    if len(secret) < SECRET_CHARACTERS_MIN or len(set(secret)) < SECRET_CHARACTERS_DISTINCT_MIN:
        raise ValueError(
            f"should be random: {SECRET_CHARACTERS_MIN} characters or more, {SECRET_CHARACTERS_DISTINCT_MIN} of them "
            "different"
        )
    return secret


def _checked_optional_secret(secret: SecretStr) -> SecretStr:
    if secret.get_secret_value():
        checked_secret(secret.get_secret_value())
    return secret


RandomSecret = Annotated[SecretStr, AfterValidator(_checked_optional_secret)]
"""A secret of 32 random characters or more, or none."""


class GatewaySettings(BaseSettings):
    """The settings of gateways and capture workers, besides those of every process."""

    gateway_host: str = Field(
        "127.0.0.1",
        description="Listen address; also read from `HOST`.",
    )
    gateway_port: int = Field(
        8000,
        ge=0,
        le=65535,
        description="Port; 0: any free port; also read from `PORT`.",
    )
    gateway_ldo_port: int = Field(
        0, ge=0, le=65535, description="Second port with the same routes, for LDO clients of port 8001; 0: none."
    )
    gateway_auth: Literal["on", "off"] = Field(
        "on", description="Whether requests must be authenticated; off is allowed only on a loopback address."
    )
    gateway_trust: Annotated[str, AfterValidator(checked_private_networks)] = Field(
        "",
        description="Private networks whose clients need no key, with the role device for one site, comma-separated: "
        "plant=10.4.0.0/16 for the site plant, 10.1.0.0/16 for gateway_site; also `headrace gateway --trust`.",
    )
    gateway_token_secret: RandomSecret = Field(
        SecretStr(""),
        description="Secret that signs the gateway's own tokens, 32 characters or more; the same for every gateway, "
        "and for no other process. Empty: no tokens are issued.",
    )
    gateway_seal_secret: RandomSecret = Field(
        SecretStr(""),
        description="Secret that encrypts the credentials of cameras in capture requests, 32 characters or more; the "
        "same for every gateway and capture worker. Empty: captures with credentials are rejected.",
    )
    gateway_receipt_secret: RandomSecret = Field(
        SecretStr(""),
        description="Secret from which the Ed25519 key of receipts is derived, 32 characters or more; the same for "
        "every gateway and for `headrace erase`, and for no other process. Empty: receipts and reports are not signed.",
    )
    gateway_admin_key: SecretStr = Field(
        SecretStr(""),
        description="API key, hr_<id>_<secret>, that `headrace init` creates with the role admin if no key has its id; "
        "an existing key is not changed. Empty: none.",
    )
    gateway_jwt_issuer: str = Field(
        "", description="Issuer (iss) whose bearer tokens are accepted besides the gateway's own."
    )
    gateway_jwt_audience: str = Field("headrace", description="Audience (aud) that such a token must have.")
    gateway_jwks: str = Field("", description="JSON Web Key Set of the issuer: a file or an https:// URL.")
    gateway_site: str = Field("default", description="Default site of a request.")
    gateway_cors_origins: str = Field("", description="Allowed CORS origins, comma-separated.")
    gateway_hosts: str = Field(
        "", description="Host names under which clients reach the gateway, comma-separated; empty: any."
    )
    gateway_proxies: str = Field(
        "", description="Trusted proxies, whose X-Forwarded-For is used: addresses or networks, comma-separated."
    )
    redis_password: SecretStr = Field(SecretStr(""), description="Password of Redis, where redis_url has none.")
    redis_url: SecretStr = Field(
        SecretStr(""),
        description="Redis or Valkey, in which gateways share rate limits and cached lists; empty: each has its own; "
        "also read from `REDIS_URL`.",
    )
    gateway_requests_per_minute: int = Field(
        6000, ge=1, le=10_000_000, description="Requests per minute of one API key, or of one address without a key."
    )
    gateway_ingest_per_minute: int = Field(
        5, ge=1, le=1_000_000, description="Files per minute that one address may send to POST /ingest."
    )
    gateway_upload_mib_per_hour: int = Field(
        512_000,
        ge=1,
        le=1_000_000_000,
        description="MiB per hour that one API key, or one address without a key, may upload.",
    )
    gateway_buffer_bytes_max: int = Field(
        48 * _MIB, ge=16 * _MIB, le=4096 * _MIB, description="Maximum bytes of uploads in memory."
    )
    gateway_answer_s_max: float = Field(
        10.0, ge=0, le=300, description="Seconds to wait for an upload to be durable before answering 202."
    )
    gateway_header_s_max: float = Field(
        10.0, gt=0, le=300, description="Timeout in seconds for receiving the headers of a request."
    )
    gateway_body_stall_s_max: float = Field(
        20.0,
        gt=0,
        le=3600,
        description="Seconds in which a request body must send gateway_body_bytes_per_s_min for each second or end, "
        "and in which a client must read 4 KiB of a waiting response.",
    )
    gateway_body_bytes_per_s_min: int = Field(
        1024, ge=1, le=1024 * _MIB, description="Bytes a second that the body of a request must bring, at the least."
    )
    gateway_body_s_max: float = Field(
        3600.0,
        gt=0,
        le=21_600,
        description="Seconds that the body of a request may take; resumable uploads take several.",
    )
    gateway_upload_expiry_hours: float = Field(
        24.0, gt=0, le=720, description="Hours that an unfinished resumable upload, or an Idempotency-Key, is kept."
    )
    gateway_uploads_per_caller_max: int = Field(
        100, ge=1, le=100_000, description="Unfinished resumable uploads that one caller may have at a time."
    )
    gateway_audit_retention_days: float = Field(
        365.0, gt=0, le=36_500, description="Days that rows of the audit log are kept."
    )
    gateway_streams_max: int = Field(
        200, ge=1, le=10_000, description="Maximum number of open WebSockets and event streams of one gateway."
    )
    gateway_feeds_max: int = Field(
        32,
        ge=1,
        le=1000,
        description="Maximum number of these that are feeds over /ws/ingest; each may buffer a message of 9 MiB.",
    )
    gateway_streams_per_caller_max: int = Field(
        50, ge=1, le=10_000, description="Maximum number of open event streams of one caller at one gateway."
    )
    gateway_feeds_per_caller_max: int = Field(
        8, ge=1, le=1000, description="Maximum number of open feeds of one caller at one gateway."
    )
    gateway_clamd: str = Field(
        "", description="clamd that scans uploads: host:port, or the path of a socket; empty: uploads are not scanned."
    )
    gateway_camera_networks: Annotated[str, AfterValidator(checked_networks)] = Field(
        "",
        description="Networks of cameras besides the public internet, for gateways and capture workers, "
        "comma-separated: plant=10.4.0.0/16 for the site plant, 192.168.10.0/24 for every site.",
    )
    capture_streams_max: int = Field(
        4, ge=1, le=64, description="Maximum number of cameras that one capture worker captures at the same time."
    )
    capture_confinement: Literal["on", "off"] = Field(
        "on",
        description="Whether the decoder of a camera's stream is kept from the network and from files, by seccomp; "
        "where the system cannot, a capture worker starts only with off.",
    )

    @field_validator("redis_url")
    @classmethod
    def _with_password(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        password = info.data.get("redis_password", SecretStr(""))
        return SecretStr(with_login(url.get_secret_value(), "", password.get_secret_value()))

    @field_validator("gateway_jwt_issuer")
    @classmethod
    def _not_ourselves(cls, issuer: str) -> str:
        if issuer == "headrace":
            raise ValueError("should not be headrace, which is the issuer of the gateway's own tokens")
        return issuer

    @model_validator(mode="after")
    def _secrets_differ(self) -> Self:
        names = ("gateway_token_secret", "gateway_seal_secret", "gateway_receipt_secret")
        secrets = [secret for name in names if (secret := getattr(self, name).get_secret_value())]
        if len(set(secrets)) < len(secrets):
            raise ValueError(f"{', '.join(variable(name) for name in names)} should differ")
        return self

    @model_validator(mode="after")
    def _open_to_this_machine_only(self) -> Self:
        if self.gateway_auth == "off" and self.gateway_host not in LOOPBACK:
            raise ValueError(
                f"{variable('gateway_auth')} may be off only where {variable('gateway_host')} is one of "
                f"{', '.join(LOOPBACK)}"
            )
        return self
