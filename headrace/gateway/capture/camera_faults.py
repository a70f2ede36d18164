"""What may be wrong with a camera, and whether trying again may help. No I/O."""

from enum import StrEnum

from headrace.runtime.backoff import Backoff


class CameraFault(StrEnum):
    """Why a stream was not had, or was lost."""

    ADDRESS_REFUSED = "address_refused"
    NAME_UNKNOWN = "name_unknown"
    UNREACHABLE = "unreachable"
    CERTIFICATE_REFUSED = "certificate_refused"
    SEAL_BROKEN = "seal_broken"
    LOGIN_REFUSED = "login_refused"
    STREAM_UNKNOWN = "stream_unknown"
    REDIRECTED = "redirected"
    CAMERA_REFUSED = "camera_refused"
    NOT_RTSP = "not_rtsp"
    DESCRIPTION_REFUSED = "description_refused"
    SILENT = "silent"
    LOST = "lost"
    NO_VIDEO = "no_video"
    UNDECODABLE = "undecodable"
    TOO_LARGE = "too_large"
    DECODER_DIED = "decoder_died"
    TOO_FEW_FRAMES = "too_few_frames"
    NOT_DELIVERED = "not_delivered"
    NOT_DURABLE = "not_durable"
    REJECTED = "rejected"
    BROKEN = "broken"


class StreamLostError(Exception):
    """There is no stream, or no longer; `fault` says why."""

    def __init__(self, fault: CameraFault) -> None:
        super().__init__(fault.value)
        self.fault = fault


SENTENCES = {
    CameraFault.ADDRESS_REFUSED: "the camera's address is neither public nor in a network that the operator listed",
    CameraFault.NAME_UNKNOWN: "the camera's name has no address",
    CameraFault.UNREACHABLE: "nothing answers at the camera's address",
    CameraFault.CERTIFICATE_REFUSED: "the camera's certificate is not good for its name",
    CameraFault.SEAL_BROKEN: "the sealed login cannot be opened: gateway and capture worker have different secrets",
    CameraFault.LOGIN_REFUSED: "the camera refused the login",
    CameraFault.STREAM_UNKNOWN: "the camera has no such stream",
    CameraFault.REDIRECTED: "the camera sends callers elsewhere, which is not followed",
    CameraFault.CAMERA_REFUSED: "the camera refused the stream",
    CameraFault.NOT_RTSP: "what answers does not speak RTSP",
    CameraFault.DESCRIPTION_REFUSED: "the camera's description of its stream names something other than a stream",
    CameraFault.SILENT: "the camera fell silent, or sends too slowly",
    CameraFault.LOST: "the camera ended the connection",
    CameraFault.NO_VIDEO: "the stream holds no video",
    CameraFault.UNDECODABLE: "the stream cannot be decoded",
    CameraFault.TOO_LARGE: "a frame is larger than is taken",
    CameraFault.DECODER_DIED: "the decoder ended on this stream",
    CameraFault.TOO_FEW_FRAMES: "fewer frames came than were asked for in the time that there was",
    CameraFault.NOT_DELIVERED: "Kafka did not take a frame",
    CameraFault.NOT_DURABLE: "what was captured was not durable in time",
    CameraFault.REJECTED: "what was captured can never be ingested; `headrace dlq ls` has it",
    CameraFault.BROKEN: "the capture worker failed; its log says why",
}

MAY_PASS = frozenset(
    {
        CameraFault.NAME_UNKNOWN,
        CameraFault.UNREACHABLE,
        CameraFault.SILENT,
        CameraFault.LOST,
        CameraFault.UNDECODABLE,
        CameraFault.DECODER_DIED,
        CameraFault.CAMERA_REFUSED,
    }
)
"""Faults after which a camera is tried again."""

RECONNECT_DELAY_S = 0.5
RECONNECT_DELAY_S_MAX = 30.0
CONNECTS_IN_VAIN_MAX = 4  # connections in a row that brought no frame
RECONNECTS_MAX = 200


def delay_s(in_vain: int) -> float:
    """Return the seconds to wait before the next connection, after so many in a row that brought no frame."""
    return Backoff(RECONNECT_DELAY_S, RECONNECT_DELAY_S_MAX).delay_s(in_vain)


def is_over(fault: CameraFault, *, in_vain: int, reconnects: int) -> bool:
    """Say whether a camera is given up."""
    return fault not in MAY_PASS or in_vain >= CONNECTS_IN_VAIN_MAX or reconnects >= RECONNECTS_MAX


def reason_of(fault: CameraFault) -> str:
    """Return the fault as a request's reason."""
    return f"{fault}: {SENTENCES[fault]}"
