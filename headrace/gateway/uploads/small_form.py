"""Short forms (application/x-www-form-urlencoded), read within bounds: decoding a long one would hold everybody up."""

from urllib.parse import parse_qsl

from fastapi import Request

from headrace.gateway.problems import Problem, ProblemCode
from headrace.schemas.limits import KIB

FORM_BYTES_MAX = 16 * KIB  # a code of 4 KiB, percent-encoded, and a few names
FIELDS_MAX = 16


async def small_form(request: Request) -> dict[str, str]:
    """Return a form's fields, each once.

    Raises:
        Problem: it is too long (413), or is no form of so few fields (400, 422).
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES_MAX:
            raise Problem(413, ProblemCode.TOO_LARGE, f"a form like this has at most {FORM_BYTES_MAX} bytes")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError:
        raise Problem(
            400, ProblemCode.BAD_REQUEST, f"the body is no form of at most {FIELDS_MAX} fields in UTF-8"
        ) from None
    if len(pairs) != len(dict(pairs)):
        raise Problem(422, ProblemCode.INVALID, "a field comes twice")
    return dict(pairs)
