from enum import StrEnum


class RejectCode(StrEnum):
    """Why a message can never be ingested: a closed list, by which dead letters are counted."""

    EMPTY_VALUE = "empty_value"  # no value at all
    NOT_FRAMED = "not_framed"  # not the registry wire format: wrong first byte or too short
    UNKNOWN_SCHEMA = "unknown_schema"  # no schema with that id was ever published
    WRONG_EVENT = "wrong_event"  # a known schema, but not this topic's
    UNDECODABLE = "undecodable"  # the bytes do not follow their schema
    MISSING_FIELD = "missing_field"  # a field that must say something is empty or absent
    FIELD_OUT_OF_RANGE = "field_out_of_range"  # a name, number or text beyond its limit
    ABSURD_TIME = "absurd_time"  # captured before 1970 or more than a day ahead of Kafka's time
    MALFORMED_DIGEST = "malformed_digest"  # not 64 lower-case hexadecimal digits
    DIGEST_MISMATCH = "digest_mismatch"  # the bytes hash to another digest than declared
    SIZE_MISMATCH = "size_mismatch"  # the bytes are longer or shorter than declared
    TOO_LARGE = "too_large"  # a body over its limit
    NOT_AN_IMAGE = "not_an_image"  # no image of a format that is taken, or not all of one
    IMAGE_MISMATCH = "image_mismatch"  # an image of another type or size than declared
    NOT_A_VIDEO = "not_a_video"  # no video of a format that is taken, or not all of one
    NOT_JSON = "not_json"  # a body or attributes that are not the JSON they must be
    CLAIM_MISSING = "claim_missing"  # the staged object is not there
    CLAIM_REFUSED = "claim_refused"  # a claim on an object that is not this source's staging area
    FOREIGN_SITE = "foreign_site"  # a mirrored topic brought an event that names another site than the topic
    ORIGIN_INVALID = "origin_invalid"  # the mirror's header is malformed, or contradicts the topic
    REPLAYED = "replayed"  # a replay published it: it was ingested before
    ERASED = "erased"  # the bytes were erased; this dead letter does not hold them


class RejectedError(ValueError):
    """A message, or a part of it, can never be ingested; `reason` is one sentence that names the field."""

    def __init__(self, code: RejectCode, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason

    def __reduce__(self) -> tuple[type["RejectedError"], tuple[RejectCode, str]]:
        """Let it be raised in a child process: without this, it is unpickled from its text alone."""
        return type(self), (self.code, self.reason)
