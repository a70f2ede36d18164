"""Tokens for aiokafka: fetched once for a while, and never shown where that fails."""

import pytest
from aiokafka.errors import KafkaConnectionError
from structlog.testing import capture_logs

from headrace.runtime.settings import Settings, load_settings
from headrace.streams.worker.faust import access_token
from headrace.streams.worker.faust.access_token import AccessToken
from tests.infra.token_endpoint import LIFETIME_S, TokenEndpoint, serving
from tests.processes import free_port

CLIENT, SECRET = "api://the-client", "canary-of-the-client"

pytestmark = pytest.mark.server


def settings_of(url: str, **changes: str) -> Settings:
    given = {
        "kafka_oauth_token_url": url,
        "kafka_oauth_client_id": CLIENT,
        "kafka_oauth_client_secret": SECRET,
        "kafka_oauth_scope": "events",
    }
    return load_settings(_env_file=None, **given | changes)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


async def test_a_token_is_fetched_again_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(access_token, "time", clock)
    with serving(CLIENT, SECRET) as endpoint:
        provider = AccessToken(settings_of(endpoint.url))
        first = await provider.token()
        clock.now_s += LIFETIME_S * 0.79
        assert await provider.token() == first
        assert endpoint.asked == ["events"]
        clock.now_s += LIFETIME_S * 0.02
        await provider.token()
        assert endpoint.asked == ["events", "events"]


async def test_a_client_that_is_refused_is_told_without_its_secret() -> None:
    with serving(CLIENT, "another") as endpoint:
        await is_told(AccessToken(settings_of(endpoint.url)), "ClientResponseError")


async def test_an_endpoint_that_is_away_is_told_and_asked_again() -> None:
    provider = AccessToken(settings_of(f"http://127.0.0.1:{free_port()}/token"))
    for _ in range(2):
        await is_told(provider, "ClientConnectorError")


async def test_an_answer_without_a_token_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenEndpoint, "_grant", lambda _self, _form: {"token_type": "Bearer"})
    with serving(CLIENT, SECRET) as endpoint:
        await is_told(AccessToken(settings_of(endpoint.url)), "KeyError")


async def is_told(provider: AccessToken, why: str) -> None:
    with capture_logs() as logs, pytest.raises(KafkaConnectionError) as caught:
        await provider.token()
    assert [(line["setting"], line["why"]) for line in logs] == [("HEADRACE_KAFKA_OAUTH_TOKEN_URL", why)]
    assert caught.value.__cause__ is None
    assert SECRET not in f"{caught.value} {logs}"
