"""What may be wrong with a camera, and whether trying again may help. No I/O."""

from producers.rtsp_faults import Fault

SENTENCES = {
    Fault.ADDRESS_REFUSED: "the camera's address is neither public nor in a network that the operator listed",
    Fault.NAME_UNKNOWN: "the camera's name has no address",
    Fault.UNREACHABLE: "nothing answers at the camera's address",
    Fault.CERTIFICATE_REFUSED: "the camera's certificate is not good for its name",
    Fault.SEAL_BROKEN: "the sealed login cannot be opened: gateway and capture worker have different secrets",
    Fault.LOGIN_REFUSED: "the camera refused the login",
    Fault.STREAM_UNKNOWN: "the camera has no such stream",
    Fault.REDIRECTED: "the camera sends callers elsewhere, which is not followed",
    Fault.CAMERA_REFUSED: "the camera refused the stream",
    Fault.NOT_RTSP: "what answers does not speak RTSP",
    Fault.DESCRIPTION_REFUSED: "the camera's description of its stream names something other than a stream",
    Fault.SILENT: "the camera fell silent, or sends too slowly",
    Fault.LOST: "the camera ended the connection",
    Fault.NO_VIDEO: "the stream holds no video",
    Fault.UNDECODABLE: "the stream cannot be decoded",
    Fault.TOO_LARGE: "a frame is larger than is taken",
    Fault.DECODER_DIED: "the decoder ended on this stream",
    Fault.TOO_FEW_FRAMES: "fewer frames came than were asked for in the time that there was",
    Fault.NOT_DELIVERED: "Kafka did not take a frame",
    Fault.NOT_DURABLE: "what was captured was not durable in time",
    Fault.REJECTED: "what was captured can never be ingested; `headrace dlq ls` has it",
    Fault.BROKEN: "the capture worker failed; its log says why",
}

MAY_PASS = frozenset(
    {Fault.NAME_UNKNOWN, Fault.UNREACHABLE, Fault.SILENT, Fault.LOST, Fault.UNDECODABLE, Fault.DECODER_DIED,
     Fault.CAMERA_REFUSED}
)  # fmt: skip
"""Faults after which a camera is tried again."""

RECONNECT_DELAY_S = 0.5
RECONNECT_DELAY_S_MAX = 30.0
CONNECTS_IN_VAIN_MAX = 4  # connections in a row that brought no frame
RECONNECTS_MAX = 200


def delay_s(in_vain: int) -> float:
    """Return the seconds to wait before the next connection, after so many in a row that brought no frame."""
    return float(min(RECONNECT_DELAY_S_MAX, RECONNECT_DELAY_S * 2.0 ** max(0, in_vain - 1)))


def is_over(fault: Fault, *, in_vain: int, reconnects: int) -> bool:
    """Say whether a camera is given up."""
    return fault not in MAY_PASS or in_vain >= CONNECTS_IN_VAIN_MAX or reconnects >= RECONNECTS_MAX


def reason_of(fault: Fault) -> str:
    """Return the fault as a request's reason."""
    return f"{fault}: {SENTENCES[fault]}"
