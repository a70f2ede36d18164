"""What a camera's address must not show, sealed for the capture workers (AES-256-GCM, a key by HKDF-SHA-256).

The request's id is authenticated with it, so a seal cannot be moved to another request.
"""

import os
from hashlib import sha256
from hmac import digest as hmac
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from headrace.gateway.capture.camera_url import CameraLogin, CameraUrl

_VERSION = b"\x01"
_NONCE_BYTES = 12
_KEY_BYTES = 32


class DecryptionError(Exception):
    """It was sealed with another secret, for another request, or changed since."""


class CredentialCipher:
    """Seals and opens with keys made from the secret that gateways and capture workers share."""

    def __init__(self, secret: str) -> None:
        """Make the keys."""
        self._cipher = AESGCM(_derived(secret, b"headrace camera seal 1"))
        self._marking = _derived(secret, b"headrace camera mark 1")

    def seal(self, request_id: UUID, url: CameraUrl) -> bytes:
        """Return the login and the target of an address, sealed."""
        login = None if url.login is None else [url.login.user, url.login.password]
        said = orjson.dumps({"target": url.target, "login": login})
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, said, request_id.bytes)

    def opened(self, request_id: UUID, sealed: bytes, shown: CameraUrl) -> CameraUrl:
        """Return the whole address for one that was shown.

        Raises:
            SealBroken: as it says.
        """
        nonce, text = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            if sealed[:1] != _VERSION:
                raise DecryptionError
            said = orjson.loads(self._cipher.decrypt(nonce, text, request_id.bytes))
        except (InvalidTag, ValueError):
            raise DecryptionError from None
        login = None if said["login"] is None else CameraLogin(*said["login"])
        return CameraUrl(shown.scheme, shown.host, shown.port, said["target"], login)

    def mark(self, text: str) -> str:
        """Return what tells texts apart and does not let one be guessed."""
        return hmac(self._marking, text.encode(errors="surrogatepass"), sha256).hex()


def _derived(secret: str, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=purpose).derive(secret.encode())
