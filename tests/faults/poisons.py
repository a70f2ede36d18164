"""Messages that can never be ingested, of every kind that a broken device may send."""

from dataclasses import replace

from headrace.demo.fault_injector import POISONS, Build, Ingredients, Poison
from headrace.schemas.codec import encode
from headrace.schemas.digest import sha256_hex, staging_key
from headrace.schemas.events import Kind
from headrace.schemas.reject import RejectCode


def malformed_digest(given: Ingredients) -> Poison:
    """Return a frame whose digest is written in capitals."""
    return Poison(
        RejectCode.MALFORMED_DIGEST, Kind.FRAME, encode(replace(given.frame, sha256=given.frame.sha256.upper()))
    )


def size_mismatch(given: Ingredients) -> Poison:
    """Return a frame that declares one byte more than it has."""
    return Poison(
        RejectCode.SIZE_MISMATCH, Kind.FRAME, encode(replace(given.frame, size_bytes=given.frame.size_bytes + 1))
    )


def image_mismatch(given: Ingredients) -> Poison:
    """Return a frame that declares another width than its image has."""
    return Poison(RejectCode.IMAGE_MISMATCH, Kind.FRAME, encode(replace(given.frame, width=given.frame.width + 1)))


def not_json(given: Ingredients) -> Poison:
    """Return a frame whose attributes are half an object."""
    return Poison(RejectCode.NOT_JSON, Kind.FRAME, encode(replace(given.frame, attributes=b'{"half":')))


def field_out_of_range(given: Ingredients) -> Poison:
    """Return a frame whose counter was never set."""
    return Poison(RejectCode.FIELD_OUT_OF_RANGE, Kind.FRAME, encode(replace(given.frame, sequence=-1)))


def claim_refused(given: Ingredients) -> Poison:
    """Return a frame that claims what lies in the staging area of another source."""
    claim = staging_key(given.frame.site, "somebody-else", given.frame.sha256)
    return Poison(RejectCode.CLAIM_REFUSED, Kind.FRAME, encode(replace(given.frame, body=None, claim=claim)))


def claim_missing(given: Ingredients) -> Poison:
    """Return a frame that claims what nobody staged."""
    digest = sha256_hex(given.random.randbytes(32))
    claim = staging_key(given.frame.site, given.frame.source_id, digest)
    return Poison(
        RejectCode.CLAIM_MISSING, Kind.FRAME, encode(replace(given.frame, sha256=digest, body=None, claim=claim))
    )


ALL: tuple[Build, ...] = (
    *POISONS,
    malformed_digest,
    size_mismatch,
    image_mismatch,
    not_json,
    field_out_of_range,
    claim_refused,
    claim_missing,
)


def poison(given: Ingredients) -> Poison:
    """Return one of them, drawn by chance."""
    return given.random.choice(ALL)(given)
