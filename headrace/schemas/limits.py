"""The limits of the contract, unit last. A message beyond a limit becomes a dead letter."""

KIB = 1024
MIB = 1024 * KIB

FRAME_BYTES_MAX = 64 * MIB  # a still image, staged or inline
CLIP_BYTES_MAX = 2 * 1024 * MIB  # a clip; above 8 MiB it is staged
INLINE_BYTES_MAX = 8 * MIB  # the largest body in a message; a larger one is staged
LDO_BODY_BYTES_MAX = 1 * MIB
CODE_BYTES_MAX = 4 * KIB  # a QR code holds at most 2,953 bytes
NAME_BYTES_MAX = 200  # source, site, ldo_id and the like
ATTRIBUTES_BYTES_MAX = 64 * KIB
ENVELOPE_BYTES_MAX = 128 * KIB  # a message without its body: attributes, names, headers, record overhead
BATCH_BYTES_MAX = 32 * MIB  # a record batch once decompressed: three of the largest messages
HEADERS_MAX = 10_000  # of a message
HEADER_BYTES = 150  # that a header holds in memory beside its name and value: a pair, a text and bytes
KEY_SEGMENT_BYTES_MAX = 255  # of a store's key, between two slashes; MinIO stores each segment as a file name
PACKED_BYTES_MAX = 64 * KIB  # smaller CID and LDO bodies are packed together into one object

FRAME_PIXELS_MAX = 100_000_000  # 100 megapixels: 300 MB once decoded
FRAME_SIDE_PIXELS_MAX = 32_767
CLIP_DURATION_US_MAX = 3_600 * 1_000_000
JPEG_SCANS_MAX = 500  # encoders write about ten; a decoder needs one pass for each

REGIONS_MAX = 256  # changed regions of one perceived frame
ARRAY_ITEMS_MAX = 1024  # items of any array in any message

CLOCK_SET_US_MIN = 946_684_800 * 1_000_000  # 2000-01-01: no clock that was ever set shows less
CAPTURED_AT_US_MAX = 253_402_300_799_999_999  # the end of 9999, the last year of RFC 3339
CAPTURED_AHEAD_US_MAX = 24 * 3_600 * 1_000_000  # a clock may run a day ahead (time zones set wrongly), not more
