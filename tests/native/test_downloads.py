import http.server
import ssl
import threading
import urllib.request
from pathlib import Path

import pytest

from headrace.native import minio
from headrace.native.downloads import UNTRUSTED_HINT, is_untrusted
from headrace.native.kafka_jars import _unavailable, listed
from tests.certificates import certificate


def failure_of(context: ssl.SSLContext) -> Exception:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(OSError, match="certificate") as caught:
            urllib.request.urlopen(f"https://127.0.0.1:{server.server_port}/x.jar", timeout=5)
    return caught.value


def test_an_intercepted_download_names_its_cause_and_the_variables(tmp_path: Path) -> None:
    context, _ = certificate(tmp_path, "proxy")
    error = failure_of(context)
    assert is_untrusted(error)
    told = _unavailable(listed()[0], error)
    assert "not trusted" in told.what
    assert told.hint == UNTRUSTED_HINT


def test_other_failures_keep_their_own_hint() -> None:
    told = _unavailable(listed()[0], ConnectionError("connection refused"))
    assert "connection refused" in told.what
    assert "HTTPS_PROXY" in told.hint


def test_gos_words_are_understood() -> None:
    reason = "tls: failed to verify certificate: x509: certificate signed by unknown authority"
    told = minio._build_failed(reason)
    assert (UNTRUSTED_HINT, "not trusted" in told.what) == (told.hint, True)
