"""What a fetch may do, as plain values."""

from dataclasses import dataclass
from typing import Self

from headrace.runtime.addresses import Network, networks_of
from headrace.runtime.settings import Settings

REDIRECTS_MAX = 3
ROBOTS_BYTES_MAX = 500 * 1024  # RFC 9309 asks for at least as many
ROBOTS_S_MAX = 15.0
CRAWL_DELAY_S_MAX = 30.0  # what a robots.txt may slow us down to
DNS_CACHE_S = 60
DNS_CACHE_HOSTS_MAX = 1000
STALL_BYTES_MIN = 4096  # a body brings so many in each stall time, or its end


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPolicy:
    """Limits and manners of fetching; sizes in bytes, times in seconds."""

    networks: tuple[Network, ...] = ()
    bytes_max: int
    total_s_max: float
    stall_s_max: float
    attempts_max: int
    retry_delay_s: float
    retry_delay_s_max: float
    host_requests_max: int
    host_pause_s: float
    robots: bool
    opt_outs: bool
    agent: str

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return what the settings say."""
        return cls(
            networks=networks_of(settings.url_networks),
            bytes_max=settings.url_bytes_max,
            total_s_max=settings.url_total_s_max,
            stall_s_max=settings.url_stall_s_max,
            attempts_max=settings.url_attempts_max,
            retry_delay_s=settings.url_retry_delay_s,
            retry_delay_s_max=settings.url_retry_delay_s_max,
            host_requests_max=settings.url_host_requests_max,
            host_pause_s=settings.url_host_pause_s,
            robots=settings.url_robots == "on",
            opt_outs=settings.url_opt_outs == "on",
            agent=settings.url_agent,
        )
