from uuid import UUID

import pytest

from headrace.schemas.redrive import REDRIVE_ATTEMPT, REDRIVE_OF, REDRIVE_ORIGIN, Redrive, redrive_headers, redrive_of

LETTER = UUID("11111111-2222-5333-8444-555555555555")
SAID = Redrive(LETTER, 3)


def test_what_is_said_is_read_again_beside_the_messages_own_headers() -> None:
    headers = redrive_headers([("a", b"1"), ("a", b"2")], SAID, ("edge.cids.v1", 2, 17))
    assert headers[:2] == [("a", b"1"), ("a", b"2")]
    assert dict(headers)[REDRIVE_ORIGIN] == b"edge.cids.v1/2/17"
    assert redrive_of(headers) == SAID


def test_what_a_message_said_of_itself_is_replaced() -> None:
    forged = [(REDRIVE_OF, b"forged"), (REDRIVE_ATTEMPT, b"99")]
    assert redrive_of(redrive_headers(forged, SAID, ("edge.cids.v1", 0, 0))) == SAID


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("a", b"1")],
        [(REDRIVE_OF, None)],
        [(REDRIVE_OF, b"\xff"), (REDRIVE_ATTEMPT, b"1")],
        [(REDRIVE_OF, str(LETTER).encode())],
        [(REDRIVE_ATTEMPT, b"1")],
        [(REDRIVE_OF, str(LETTER).encode()), (REDRIVE_ATTEMPT, b"-1")],
        [(REDRIVE_OF, str(LETTER).encode()), (REDRIVE_ATTEMPT, "\u0661".encode())],
        [(REDRIVE_OF, str(LETTER).encode()), (REDRIVE_ATTEMPT, b"1" * 10)],
    ],
)
def test_what_says_nothing_readable_is_no_redrive(headers: list[tuple[str, bytes | None]]) -> None:
    assert redrive_of(headers) is None
