"""Who gets in, how far, and how often."""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from headrace.initialize import add_admin_key
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from tests.commands import CommandResult, run_in_process
from tests.gateway.gateway_world import Gateway, StartGateway, name, picture, secret_of
from tests.waiting import until

pytestmark = pytest.mark.stack

ISSUER = "https://login.example"
SECRET = secret_of("token")


@pytest.fixture(scope="module")
def issuer_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def trusting(
    service_settings: Any, issuer_key: rsa.RSAPrivateKey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway that takes an issuer's tokens."""
    folder = tmp_path_factory.mktemp("jwks")
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(issuer_key.public_key()))
    keys = folder / "jwks.json"
    keys.write_text(json.dumps({"keys": [{**jwk, "kid": "one", "alg": "RS256", "use": "sig"}]}))
    with Gateway(
        service_settings,
        folder / "log",
        gateway_jwks=keys,
        gateway_jwt_issuer=ISSUER,
        gateway_answer_s_max=60,
        gateway_ingest_per_minute=1000,
    ) as started:
        yield started


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    said = {
        "iss": ISSUER,
        "aud": "headrace",
        "sub": "someone",
        "iat": now,
        "exp": now + 60,
        "role": "operator",
        "sources": ["*"],
    }
    return {name: value for name, value in (said | changes).items() if value is not None}


def ask(gateway: Gateway, token: str) -> httpx.Response:
    with gateway.anonymous() as client:
        return client.get("/ingest/list", headers={"Authorization": f"Bearer {token}"})


def test_a_token_of_the_issuer_is_taken(trusting: Gateway, issuer_key: rsa.RSAPrivateKey) -> None:
    answer = ask(trusting, jwt.encode(claims(), issuer_key, algorithm="RS256", headers={"kid": "one"}))
    assert answer.status_code == 200, answer.text


def _public_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _signed_with_the_public_key(key: rsa.RSAPrivateKey, kid: str) -> str:
    # PyJWT itself refuses to do this, so it is done by hand.
    import hashlib
    import hmac

    def part(value: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    said = part({"alg": "HS256", "typ": "JWT", "kid": kid}) + b"." + part(claims())
    signature = hmac.new(_public_pem(key), said, hashlib.sha256).digest()
    return (said + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def _without_signature(token: str) -> str:
    return token.rsplit(".", 1)[0] + "."


WRONG_TOKENS = {
    "no algorithm": lambda key: jwt.encode(claims(), None, algorithm="none", headers={"kid": "one"}),
    "no algorithm, our kid": lambda key: jwt.encode(claims(), None, algorithm="none", headers={"kid": "headrace"}),
    "HS256 with the public key": lambda key: _signed_with_the_public_key(key, "one"),
    "HS256 with the public key, our kid": lambda key: _signed_with_the_public_key(key, "headrace"),
    "kid is a path": lambda key: jwt.encode(claims(), key, algorithm="RS256", headers={"kid": "../../etc/passwd"}),
    "jku": lambda key: jwt.encode(claims(), key, algorithm="RS256", headers={"kid": "two", "jku": "http://127.0.0.1/"}),
    "over": lambda key: jwt.encode(claims(exp=int(time.time()) - 120), key, algorithm="RS256", headers={"kid": "one"}),
    "not yet": lambda key: jwt.encode(
        claims(nbf=int(time.time()) + 600), key, algorithm="RS256", headers={"kid": "one"}
    ),
    "never over": lambda key: jwt.encode(claims(exp=None), key, algorithm="RS256", headers={"kid": "one"}),
    "for somebody else": lambda key: jwt.encode(claims(aud="other"), key, algorithm="RS256", headers={"kid": "one"}),
    "of somebody else": lambda key: jwt.encode(
        claims(iss="https://evil"), key, algorithm="RS256", headers={"kid": "one"}
    ),
    "a megabyte": lambda key: jwt.encode(claims(x="y" * 30_000), key, algorithm="RS256", headers={"kid": "one"}),
    "signature stripped": lambda key: _without_signature(
        jwt.encode(claims(), key, algorithm="RS256", headers={"kid": "one"})
    ),
    "no role": lambda key: jwt.encode(claims(role=None), key, algorithm="RS256", headers={"kid": "one"}),
    "a role of its own": lambda key: jwt.encode(claims(role="root"), key, algorithm="RS256", headers={"kid": "one"}),
    "our secret for their kid": lambda key: jwt.encode(claims(), SECRET, algorithm="HS256", headers={"kid": "one"}),
    "garbage": lambda key: "a.b.c",
}


@pytest.mark.parametrize("which", WRONG_TOKENS)
def test_a_wrong_token_is_refused(trusting: Gateway, issuer_key: rsa.RSAPrivateKey, which: str) -> None:
    answer = ask(trusting, WRONG_TOKENS[which](issuer_key))
    assert answer.status_code == 401, answer.text
    assert answer.json()["code"] == "not_authenticated"


def test_a_token_larger_than_a_head_may_be_is_refused(gateway: Gateway) -> None:
    with contextlib.suppress(httpx.TransportError):  # the answer may be lost: it comes while the head is still sent
        assert ask(gateway, "a." + "b" * 1_000_000 + ".c").status_code == 400
    assert ask(gateway, gateway.key("operator")).status_code == 200


def trade(gateway: Gateway, key: str) -> httpx.Response:
    _, key_id, _ = key.split("_", 2)
    with gateway.anonymous() as client:
        return client.post(
            "/oauth/token", data={"grant_type": "client_credentials", "client_id": key_id, "client_secret": key}
        )


def test_a_key_is_traded_for_a_token_that_ends_with_it(gateway: Gateway) -> None:
    key = gateway.key("operator")
    traded = trade(gateway, key)
    assert traded.status_code == 200, traded.text
    assert traded.headers["cache-control"] == "no-store"
    body = traded.json()
    assert (body["token_type"], body["expires_in"]) == ("bearer", 900)
    assert ask(gateway, body["access_token"]).status_code == 200
    assert gateway.with_access(lambda access: access.revoke_key(key.split("_")[1], "test"))
    assert ask(gateway, body["access_token"]).status_code == 401


def test_a_wrong_trade_says_so_as_oauth_does(gateway: Gateway) -> None:
    answer = trade(gateway, "hr_nobody_wrong")
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    with gateway.anonymous() as client:
        assert client.post("/oauth/token", data={"grant_type": "password"}).json()["error"] == "unsupported_grant_type"
        for content in (b"", b"a=1&a=2", b"\xff"):
            answer = client.post("/oauth/token", content=content)
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
        answer = client.post("/oauth/token", content=b"a=" + b"b" * 20_000)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize("parameter", ["api_key", "token", "access_token", "Key"])
def test_a_key_in_the_address_is_refused_even_if_it_is_good(gateway: Gateway, parameter: str) -> None:
    with gateway.client("operator") as client:
        answer = client.get("/ingest/list", params={parameter: gateway.key("operator")})
    assert (answer.status_code, answer.json()["code"]) == (400, "key_in_url")


def test_a_revoked_key_is_refused_at_once(gateway: Gateway) -> None:
    key = gateway.key("operator")
    assert ask(gateway, key).status_code == 200
    gateway.with_access(lambda access: access.revoke_key(key.split("_")[1], "test"))
    assert ask(gateway, key).status_code == 401


def test_a_key_that_is_over_is_refused(gateway: Gateway) -> None:
    key = gateway.key("operator", days=1e-6)
    until(lambda: ask(gateway, key).status_code == 401, 10, "the key to be over")


def test_two_credentials_at_once_are_refused(gateway: Gateway) -> None:
    with gateway.client("operator") as client:
        assert client.get("/ingest/list", headers={"Authorization": "Bearer x"}).status_code == 401


def test_the_command_makes_rotates_lists_and_revokes(gateway: Gateway) -> None:
    def headrace(*args: str) -> CommandResult:
        return run_in_process(gateway.settings, "keys", *args)

    label = name("label")
    made = headrace("add", label, "--role", "operator", "--source", "*", "--json").json
    assert ask(gateway, made["key"]).status_code == 200
    rotated = headrace("rotate", made["key_id"], "--overlap-hours", "1", "--json").json
    assert ask(gateway, rotated["key"]).status_code == 200
    assert ask(gateway, made["key"]).status_code == 200, "the secret before it is good for an hour"
    again = headrace("rotate", made["key_id"], "--overlap-hours", "0", "--json").json
    assert ask(gateway, rotated["key"]).status_code == 401
    listed = headrace("ls").out
    assert label in listed
    assert again["key"].split("_", 2)[2] not in listed
    assert headrace("revoke", made["key_id"]).code == 0
    assert ask(gateway, again["key"]).status_code == 401
    wrong = headrace("revoke", "nobody")
    assert (wrong.code, "key_unknown" in wrong.err) == (1, True)
    assert headrace("add", "x", "--role", "device", "--source", "nonsense").code == 2
    actions = [row[0] for row in gateway.rows("select action from audit where action like 'keys %%' order by id")]
    assert [f"keys {what} {made['key_id']}" for what in ("add", "rotate", "rotate", "revoke")] == [
        one for one in actions if one.endswith(made["key_id"])
    ]


def test_a_page_of_another_site_cannot_use_a_browsers_password(gateway: Gateway) -> None:
    key = gateway.key("operator")
    basic = {"Authorization": "Basic " + base64.b64encode(f"x:{key}".encode()).decode()}
    foreign = ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"})
    with gateway.anonymous() as client:
        for headers in foreign:
            assert client.get("/ingest/list", headers={**basic, **headers}).status_code == 403, headers
            assert client.get("/ingest/list", headers={"X-API-Key": key, **headers}).status_code == 200
        for headers in ({}, {"Origin": gateway.url}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
            assert client.get("/ingest/list", headers={**basic, **headers}).status_code == 200, headers


def test_what_changes_something_is_audited_and_listed(gateway: Gateway) -> None:
    key = gateway.key()
    with gateway.anonymous() as client:
        sent = client.post("/ingest", files={"file": picture()}, headers={"X-API-Key": key})
        assert sent.status_code == 200, sent.text
    actor = f"key:{key.split('_')[1]}"

    def listed() -> list[tuple[str, str, int]]:
        rows = run_in_process(gateway.settings, "audit", "--actor", actor, "--json").json["audit"]
        return [(row["action"], row["address"], row["count"]) for row in rows]

    until(listed, 10, "the upload to be audited")
    assert listed() == [("POST /ingest", "127.0.0.1", 1)]
    assert "POST /ingest" in run_in_process(gateway.settings, "audit", "--actor", actor).out


def test_init_neither_restores_a_revoked_key_nor_undoes_a_rotation(gateway: Gateway) -> None:
    key_id = uuid4().hex[:12]
    key = f"hr_{key_id}_{secret_of(key_id)}"
    dsn = gateway.settings.postgres_dsn.get_secret_value()
    asyncio.run(add_admin_key(dsn, key))
    assert ask(gateway, key).status_code == 200
    rotated = run_in_process(gateway.settings, "keys", "rotate", key_id, "--overlap-hours", "0", "--json").json["key"]
    asyncio.run(add_admin_key(dsn, key))
    assert [ask(gateway, which).status_code for which in (key, rotated)] == [401, 200]
    run_in_process(gateway.settings, "keys", "revoke", key_id)
    asyncio.run(add_admin_key(dsn, key))
    assert [ask(gateway, which).status_code for which in (key, rotated)] == [401, 401]
    acts = gateway.rows("select actor, action from audit where action like %s order by id", "keys %" + key_id)
    assert acts[0] == ("init", f"keys add {key_id}")
    assert [action for _, action in acts[1:]] == [f"keys {what} {key_id}" for what in ("rotate", "revoke")]
    with pytest.raises(HeadraceError, match="weak"):
        asyncio.run(add_admin_key(dsn, f"hr_{uuid4().hex}_{'a' * 40}"))


def test_every_refusal_is_a_row_of_the_audit_trail(gateway: Gateway) -> None:
    marker = name("request")
    with gateway.client(sources=["default/mine"], headers={"X-Request-ID": marker}) as client:
        assert client.post("/ingest", data={"source_id": "other"}, files={"file": picture()}).status_code == 403

    def noted() -> list[tuple[Any, ...]]:
        return gateway.rows("select action, code, address from audit where request_id = %s", marker)

    until(noted, 10, "the refusal to be noted")
    assert noted() == [("POST /ingest", "forbidden", "127.0.0.1")]


def test_the_sixth_file_within_a_minute_waits_whichever_gateway_it_reaches(start_gateway: StartGateway) -> None:
    assert Settings.model_fields["gateway_ingest_per_minute"].default == 5
    two = [start_gateway(gateway_answer_s_max=60, gateway_ingest_per_minute=5) for _ in range(2)]
    key = two[0].key()
    statuses = []
    for number in range(6):
        with two[number % 2].anonymous() as client:
            answer = client.post("/ingest", files={"file": picture()}, headers={"X-API-Key": key})
        statuses.append(answer.status_code)
        assert answer.headers["RateLimit-Policy"].startswith(
            '"upload_mib"' if answer.status_code == 200 else '"ingest"'
        )
    assert statuses == [200] * 5 + [429]
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    assert answer.json()["code"] == "too_many_requests"
    assert answer.headers["RateLimit-Policy"] == '"ingest";q=5;w=60'
    assert answer.headers["RateLimit"].startswith('"ingest";r=0;t=')
    assert "POST /api/v1/ingest/upload" in answer.json()["hint"]
    assert "HEADRACE_GATEWAY_INGEST_PER_MINUTE" in answer.json()["hint"]
    with two[0].anonymous() as client:
        assert client.post("/ingest", files={"file": picture()}, headers={"X-API-Key": key}).status_code == 429


def test_limits_hold_while_redis_is_away(start_gateway: StartGateway) -> None:
    alone = start_gateway(redis_url="", gateway_ingest_per_minute=5)
    with alone.client() as client:
        refused = [client.post("/ingest", files={"file": b"no picture"}).status_code for _ in range(6)]
        statuses = [client.post("/ingest", files={"file": picture()}).status_code for _ in range(6)]
    assert set(refused) == {415}, "a refused request counted"
    assert statuses[-1] == 429
    assert set(statuses[:-1]) <= {200, 202}
