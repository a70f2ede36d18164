"""Access tokens for aiokafka, which asks for one with each connection; librdkafka fetches its own."""

import asyncio
import ssl
import time
from base64 import b64encode
from typing import Any

import aiohttp
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError

from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings

ANSWER_S_MAX = 10.0
_USED_SHARE = 0.8  # of a token's lifetime, as librdkafka does
_LIFETIME_S = 300.0  # where the endpoint names none (RFC 6749, 5.1)


class AccessToken(AbstractTokenProvider):  # type: ignore[misc]
    """The token of a client, by the client credentials grant of OAuth 2.0 (RFC 6749, 4.4)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._token = ""
        self._until_s = 0.0

    async def token(self) -> str:
        """Return a token that is valid for a while.

        Raises:
            KafkaConnectionError: the endpoint does not answer or refuses; aiokafka connects again.
        """
        if time.monotonic() >= self._until_s:
            began_s = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_S_MAX):
                    answer = await self._fetch()
                lifetime_s = float(answer.get("expires_in") or _LIFETIME_S)
                self._token, self._until_s = str(answer["access_token"]), began_s + _USED_SHARE * lifetime_s
            except (aiohttp.ClientError, OSError, TimeoutError, KeyError, ValueError) as error:
                # Neither the text of the error nor the answer: they may quote the request.
                get_log().warning(
                    Action.RETRYING, service="kafka", setting="HEADRACE_KAFKA_OAUTH_TOKEN_URL", why=type(error).__name__
                )
                raise KafkaConnectionError("the token endpoint gave no token") from None
        return self._token

    async def _fetch(self) -> dict[str, Any]:
        settings = self._settings
        # As librdkafka: not form-encoded before, as RFC 6749 (2.3.1) has it and few endpoints expect.
        login = f"{settings.kafka_oauth_client_id}:{settings.kafka_oauth_client_secret.get_secret_value()}"
        headers = {"Authorization": f"Basic {b64encode(login.encode()).decode()}"}
        form = {"grant_type": "client_credentials"}
        if settings.kafka_oauth_scope:
            form["scope"] = settings.kafka_oauth_scope
        tls = ssl.create_default_context(cafile=settings.kafka_oauth_ca_file or None)
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.post(
                settings.kafka_oauth_token_url, data=form, headers=headers, ssl=tls, allow_redirects=False
            ) as reply,
        ):
            answer: dict[str, Any] = await reply.json(content_type=None)
            return answer
