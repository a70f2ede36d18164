"""Tokens, the keys of an issuer, and the secrets that sign: what needs no running gateway."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr, ValidationError

from headrace.gateway.auth.principal import Principal, Role
from headrace.gateway.auth.tokens import JWKS_BYTES_MAX, InvalidTokenError, KeySet, TokenVerifier, issue
from headrace.runtime.settings import Settings
from tests.certificates import certificate
from tests.gateway.gateway_world import secret_of

SECRET = secret_of("token")
DEVICE = Principal("key:0a1b", Role.DEVICE, ("*",))


def verifier(**changes: str) -> TokenVerifier:
    return TokenVerifier(**{"secret": SECRET, "audience": "headrace", "issuer": "", "jwks": "", **changes})


def own_token(**changes: Any) -> str:
    claims = jwt.decode(
        issue(DEVICE, secret=SECRET, audience="headrace", now_s=time.time()), options={"verify_signature": False}
    )
    return jwt.encode(claims | changes, SECRET, algorithm="HS256", headers={"kid": "headrace"})


def test_a_token_of_the_gateway_names_a_key_and_ends_after_15_minutes() -> None:
    assert verifier().authenticate(own_token()) == DEVICE
    now = int(time.time())
    for changes in ({"exp": now + 3600}, {"exp": now + 3600, "iat": now - 1}, {"sub": "sub:admin"}, {"sub": "admin"}):
        with pytest.raises(InvalidTokenError):
            verifier().authenticate(own_token(**{"role": "admin", **changes}))


def jwks(*kids: str, bits: int = 2048) -> tuple[rsa.RSAPrivateKey, bytes]:
    key = rsa.generate_private_key(65537, bits)
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    return key, json.dumps({"keys": [{**jwk, "kid": kid, "alg": "RS256", "use": "sig"} for kid in kids]}).encode()


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")  # of the test's own signature
def test_an_issuer_with_a_short_key_is_not_trusted(tmp_path: Path) -> None:
    now = int(time.time())
    claims = {"iss": "https://login", "aud": "headrace", "sub": "x", "iat": now, "exp": now + 60, "role": "admin"}
    for bits, is_good in ((2048, True), (1024, False)):
        key, document = jwks("one", bits=bits)
        (tmp_path / "jwks.json").write_bytes(document)
        token = jwt.encode(claims | {"sources": ["*"]}, key, algorithm="RS256", headers={"kid": "one"})
        trusting = verifier(issuer="https://login", jwks=str(tmp_path / "jwks.json"))
        if is_good:
            assert trusting.authenticate(token).role is Role.ADMIN
        else:
            with pytest.raises(InvalidTokenError):
                trusting.authenticate(token)


class Issuer:
    """An https server with keys; `answer` writes the answer to a request."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.paths: list[str] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda _: None

    def publish(self, document: bytes) -> None:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Length", str(len(document)))
            request.end_headers()
            request.wfile.write(document)

        self.answer = answer


@pytest.fixture
def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    context, authority = certificate(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with _serving() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.issuer.url = f"https://localhost:{server.server_port}/jwks.json"
        yield server.issuer


class _Server(ThreadingHTTPServer):
    issuer: Issuer


@contextmanager
def _serving() -> Iterator[_Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.issuer.paths.append(self.path)
            server.issuer.answer(self)

        def log_message(self, *_args: object) -> None:
            pass

    with _Server(("127.0.0.1", 0), Handler) as server:
        server.issuer = Issuer("")
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield server
        finally:
            server.shutdown()
            serving.join()


def test_a_new_key_of_the_issuer_is_fetched_at_once_and_a_forged_kid_fetches_seldom(issuer: Issuer) -> None:
    now = [0.0]
    keys = KeySet(issuer.url, clock_s=lambda: now[0])
    issuer.publish(jwks("old")[1])
    assert keys.get("old") is not None
    issuer.publish(jwks("old", "new")[1])
    now[0] = 31
    assert keys.get("new") is not None
    for number in range(100):
        assert keys.get(f"forged-{number}") is None
    assert len(issuer.paths) == 2
    now[0] = 62
    assert keys.get("forged") is None
    assert keys.get("forged") is None
    assert len(issuer.paths) == 3


def test_the_keys_are_fetched_from_their_address_alone(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer.publish(jwks("one")[1])
    with _serving() as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        assert KeySet(issuer.url).get("one") is not None

    def elsewhere(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", "/other.json")
        request.end_headers()

    issuer.answer = elsewhere
    assert KeySet(issuer.url).get("one") is None
    assert set(issuer.paths) == {"/jwks.json"}


@pytest.mark.parametrize(
    "document",
    [b" " * JWKS_BYTES_MAX + jwks("one")[1], b"[" * 200_000, b"null", b'{"keys": 1}', b"\xff"],
    ids=["too large", "nested", "null", "no list", "no text"],
)
def test_an_answer_that_is_no_key_set_is_none(issuer: Issuer, document: bytes) -> None:
    issuer.publish(document)
    assert KeySet(issuer.url).get("one") is None


@pytest.mark.parametrize("name", ["token", "seal", "receipt"])
@pytest.mark.parametrize("secret", ["x" * 64, "abcdefghijklmnop"], ids=["one character", "short"])
def test_a_weak_secret_is_refused(name: str, secret: str) -> None:
    with pytest.raises(ValidationError, match="should be random") as raised:
        Settings(_env_file=None, **{f"gateway_{name}_secret": SecretStr(secret)})
    assert secret not in str(raised.value)


def test_what_signs_tokens_signs_nothing_else() -> None:
    with pytest.raises(ValidationError, match="should differ"):
        Settings(_env_file=None, gateway_token_secret=SecretStr(SECRET), gateway_seal_secret=SecretStr(SECRET))
