import socket

import pytest

from headrace.native import readiness
from headrace.native.readiness import answer_of
from headrace.runtime.health import HealthServer, Readiness
from tests.processes import free_port


@pytest.mark.parametrize(
    ("needs", "answer"),
    [
        ({"kafka": None}, ("ready", {})),
        ({"kafka": None, "redis": "refused"}, ("degraded", {"redis": "refused"})),
        ({"kafka": "no answer within 5 s", "store": None}, ("not ready", {"kafka": "no answer within 5 s"})),
    ],
)
def test_a_process_answers_for_itself(needs: dict[str, str | None], answer: tuple[str, dict[str, str]]) -> None:
    server = HealthServer("127.0.0.1", 0, livez=lambda: (True, ""), readyz=lambda: Readiness(needs))
    server.start()
    try:
        assert answer_of(server.port) == answer
    finally:
        server.stop()


def test_a_process_that_is_gone_or_hangs_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "ANSWER_S_MAX", 0.2)
    state, missing = answer_of(free_port())
    assert (state, "Connection refused" in missing["process"]) == ("", True)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        state, missing = answer_of(silent.getsockname()[1])
    assert (state, "timed out" in missing["process"]) == ("", True)
