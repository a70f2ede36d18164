"""An OAuth 2.0 token endpoint of the client credentials grant, with the key set by which Kafka checks its tokens."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

AUDIENCE = "kafka"
KEY_ID = "key-1"
LIFETIME_S = 600


class TokenEndpoint:
    """Gives tokens to one client; `asked` has the scope of each request that it granted."""

    def __init__(self, client_id: str, client_secret: str) -> None:
        self.asked: list[str] = []
        self.signing_key = rsa.generate_private_key(65537, 2048)
        self._login = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
        self._client_id = client_id
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint._answer(self, 200, endpoint._keys())

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                if self.headers["Authorization"] != f"Basic {endpoint._login}":
                    endpoint._answer(self, 401, {"error": "invalid_client"})
                else:
                    endpoint._answer(self, 200, endpoint._grant(form))

            def log_message(self, *_args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/token"
        self.keys_url = f"http://127.0.0.1:{self.server.server_port}/jwks"

    def _keys(self) -> dict[str, Any]:
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.signing_key.public_key()))
        return {"keys": [key | {"kid": KEY_ID, "use": "sig", "alg": "RS256"}]}

    def _grant(self, form: str) -> dict[str, Any]:
        assert "grant_type=client_credentials" in form
        self.asked.append(form.partition("scope=")[2].partition("&")[0])
        now = int(time.time())
        claims = {"sub": self._client_id, "iss": self.url, "aud": AUDIENCE, "iat": now, "exp": now + LIFETIME_S}
        token = jwt.encode(claims, self.signing_key, "RS256", {"kid": KEY_ID})
        return {"access_token": token, "token_type": "Bearer", "expires_in": LIFETIME_S}

    @staticmethod
    def _answer(handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)


@contextmanager
def serving(client_id: str, client_secret: str) -> Iterator[TokenEndpoint]:
    """Run the endpoint in a thread."""
    endpoint = TokenEndpoint(client_id, client_secret)
    thread = threading.Thread(target=endpoint.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.server.shutdown()
        endpoint.server.server_close()
        thread.join()
