"""Limits of fetching, as plain values."""

from dataclasses import dataclass
from typing import Self

from headrace.runtime.addresses import Network, networks_of
from headrace.runtime.backoff import Backoff
from headrace.runtime.settings import Settings

REDIRECTS_MAX = 3
HEADER_BYTES_MAX = 32 * 1024  # of the status line, and of each header; browsers take 256 KiB in all
HEADERS_MAX = 256
ROBOTS_BYTES_MAX = 500 * 1024  # the least that RFC 9309 requires a crawler to parse
ROBOTS_S_MAX = 15.0
CRAWL_DELAY_S_MAX = 30.0  # the longest Crawl-delay that is honoured
DNS_CACHE_S = 60
DNS_CACHE_HOSTS_MAX = 1000
STALL_BYTES_MIN = 4096  # a body must deliver as many in each stall interval, or end


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPolicy:
    """Limits, retries and politeness of fetching; sizes in bytes, times in seconds."""

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

    @property
    def backoff(self) -> Backoff:
        """The delays between attempts."""
        return Backoff(self.retry_delay_s, self.retry_delay_s_max)

    @classmethod
    def of(cls, settings: Settings, site: str) -> Self:
        """Return the policy of the settings HEADRACE_URL_* for the records of a site."""
        return cls(
            networks=networks_of(settings.url_networks, site),
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
