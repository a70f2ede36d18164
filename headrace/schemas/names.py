"""What may be a name, of a source, a site, an LDO, and what a code.

One rule each, for the producers, who refuse early, and for the agents.
"""

import re

from headrace.schemas.limits import CODE_BYTES_MAX, NAME_BYTES_MAX
from headrace.schemas.reject import RejectCode, RejectedError

# A name is shown in logs, tables and consoles, so nothing in it may start a line, move a cursor or turn the direction
# of what follows: C0 and C1 controls, line and paragraph separators, and the bidirectional overrides and isolates.
UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def check_name(value: str, field: str) -> None:
    """Check that `value` may be a name; `field` says whose in the reason.

    Raises:
        Rejected: it is empty, longer than NAME_BYTES_MAX in UTF-8, begins or ends with space, or holds a control
            character, a bidirectional override or a lone surrogate. The reason never repeats the value.
    """
    _check_size(value, field, NAME_BYTES_MAX)
    if found := UNSHOWABLE.search(value):
        raise RejectedError(
            RejectCode.FIELD_OUT_OF_RANGE, f"{field} holds the character U+{ord(found[0]):04X}, which no name may hold"
        )
    if value != value.strip():
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"{field} begins or ends with space")


def check_code(value: str, field: str) -> None:
    """Check that `value` may be a code, or what a clip is about; `field` says which in the reason.

    A code holds whatever was printed, so control characters pass: GS1 separates its fields by one.

    Raises:
        Rejected: it is empty, longer than CODE_BYTES_MAX in UTF-8, or holds U+0000, for which the catalog has no place,
            or a lone surrogate. The reason never repeats the value.
    """
    _check_size(value, field, CODE_BYTES_MAX)
    if "\x00" in value:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"{field} holds the character U+0000")


def _check_size(value: str, field: str, bytes_max: int) -> None:
    if not value:
        raise RejectedError(RejectCode.MISSING_FIELD, f"{field} is empty")
    try:
        size_bytes = len(value.encode())
    except UnicodeEncodeError:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"{field} holds a lone surrogate") from None
    if size_bytes > bytes_max:
        raise RejectedError(
            RejectCode.FIELD_OUT_OF_RANGE, f"{field} has {size_bytes} bytes, at most {bytes_max} are allowed"
        )
