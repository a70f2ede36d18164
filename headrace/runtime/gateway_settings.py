"""The settings of gateways and capture workers."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

from headrace.runtime.addresses import networks_of
from headrace.runtime.setting_names import variable

TOKEN_SECRET_CHARACTERS_MIN = 32  # an HMAC-SHA-256 key of 256 bits or more
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
        raise ValueError("should be networks like 192.168.10.0/24, comma-separated") from None
    return text


class GatewaySettings(BaseSettings):
    """What gateways and capture workers may be told, beside what every process may."""

    gateway_host: str = Field(
        "127.0.0.1",
        description="Where the gateway listens; it reads `HOST` too.",
    )
    gateway_port: int = Field(
        8000,
        ge=0,
        le=65535,
        description="Its port, 0: any free one; it reads `PORT` too.",
    )
    gateway_ldo_port: int = Field(
        0, ge=0, le=65535, description="A second port with the same answers, for LDO clients that know 8001; 0: none."
    )
    gateway_auth: Literal["on", "off"] = Field(
        "on", description="Whether callers must show a key or token; off only where the gateway listens on loopback."
    )
    gateway_token_secret: SecretStr = Field(
        SecretStr(""),
        description="Signs the gateway's own tokens and seals camera passwords, 32 characters or more; "
        "the same for every gateway and capture worker.",
    )
    gateway_admin_key: SecretStr = Field(
        SecretStr(""), description="A key, hr_<id>_<secret>, that `headrace init` lets in as admin; empty: none."
    )
    gateway_jwt_issuer: str = Field("", description="Whose bearer tokens are taken beside the gateway's own.")
    gateway_jwt_audience: str = Field("headrace", description="For whom such a token must be made.")
    gateway_jwks: str = Field("", description="The issuer's keys: a file, or an https:// address.")
    gateway_site: str = Field("default", description="The site of callers that name none.")
    gateway_cors_origins: str = Field("", description="Web pages that may call the gateway: origins, comma-separated.")
    gateway_proxies: str = Field(
        "", description="Proxies whose X-Forwarded-For is believed: addresses or networks, comma-separated."
    )
    redis_url: SecretStr = Field(
        SecretStr(""),
        description="Redis or Valkey, through which gateways share limits and cached lists; empty: each has its own; "
        "the gateway reads `REDIS_URL` too.",
    )
    gateway_requests_per_minute: int = Field(
        6000, ge=1, le=10_000_000, description="Requests that one key, or one address without a key, may make."
    )
    gateway_ingest_per_minute: int = Field(
        5, ge=1, le=1_000_000, description="Files that one address may send to POST /ingest in a minute."
    )
    gateway_upload_mib_per_hour: int = Field(
        512_000, ge=1, le=1_000_000_000, description="Mebibytes that one key, or one address, may upload in an hour."
    )
    gateway_buffer_bytes_max: int = Field(
        48 * _MIB, ge=16 * _MIB, le=4096 * _MIB, description="Bytes of uploads that are held in memory at a time."
    )
    gateway_answer_s_max: float = Field(
        10.0, ge=0, le=300, description="Seconds to wait for an upload to be durable before answering 202."
    )
    gateway_header_s_max: float = Field(
        10.0, gt=0, le=300, description="Seconds that a request's head may take to come."
    )
    gateway_body_stall_s_max: float = Field(
        20.0, gt=0, le=3600, description="Seconds in which a body must bring at least 4 KiB, or its end."
    )
    gateway_upload_expiry_hours: float = Field(
        24.0, gt=0, le=720, description="Hours that an unfinished resumable upload, or an Idempotency-Key, is kept."
    )
    gateway_streams_max: int = Field(
        200, ge=1, le=10_000, description="WebSockets and event streams that one gateway holds at a time."
    )
    gateway_feeds_max: int = Field(
        32,
        ge=1,
        le=1000,
        description="Of them, feeds over /ws/ingest; each may hold a message of 9 MiB in memory while it comes.",
    )
    gateway_streams_per_caller_max: int = Field(
        50, ge=1, le=10_000, description="Streams of events that one gateway holds at a time for one caller."
    )
    gateway_feeds_per_caller_max: int = Field(
        8, ge=1, le=1000, description="Feeds that one gateway holds at a time for one caller."
    )
    gateway_clamd: str = Field(
        "", description="A clamd that scans uploads: host:port, or a socket's path; empty: none does."
    )
    gateway_camera_networks: Annotated[str, AfterValidator(checked_networks)] = Field(
        "",
        description="Networks in which cameras may stand beside the public internet, for gateways and capture workers: "
        "CIDRs, comma-separated, for example 192.168.10.0/24.",
    )
    capture_streams_max: int = Field(4, ge=1, le=64, description="Cameras that one capture worker captures at a time.")

    @field_validator("gateway_token_secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr) -> SecretStr:
        if 0 < len(secret.get_secret_value()) < TOKEN_SECRET_CHARACTERS_MIN:
            raise ValueError(f"should have {TOKEN_SECRET_CHARACTERS_MIN} characters or more")
        return secret

    @field_validator("gateway_jwt_issuer")
    @classmethod
    def _not_ourselves(cls, issuer: str) -> str:
        if issuer == "headrace":
            raise ValueError("should not be headrace, which is what the gateway's own tokens say")
        return issuer

    @model_validator(mode="after")
    def _open_to_this_machine_only(self) -> Self:
        if self.gateway_auth == "off" and self.gateway_host not in LOOPBACK:
            raise ValueError(
                f"{variable('gateway_auth')} may be off only where {variable('gateway_host')} is one of "
                f"{', '.join(LOOPBACK)}"
            )
        return self
