"""Why a camera's stream fails, and whether a reconnect may help. No I/O."""

from enum import StrEnum

from headrace.runtime.backoff import Backoff


class CameraFault(StrEnum):
    """Why a stream could not be opened, or was lost."""

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
    """Raised when a stream cannot be opened or ends early; `fault` says why."""

    def __init__(self, fault: CameraFault) -> None:
        super().__init__(fault.value)
        self.fault = fault


FAULT_REASONS = {
    CameraFault.ADDRESS_REFUSED: "the camera's address is neither public nor in a network that is listed for its site",
    CameraFault.NAME_UNKNOWN: "the camera's host name does not resolve",
    CameraFault.UNREACHABLE: "the camera does not accept connections",
    CameraFault.CERTIFICATE_REFUSED: "the camera's certificate is not valid for its host name",
    CameraFault.SEAL_BROKEN: "the stored login cannot be decrypted: gateway and capture worker have different secrets",
    CameraFault.LOGIN_REFUSED: "the camera rejected the login",
    CameraFault.STREAM_UNKNOWN: "the camera does not have this stream",
    CameraFault.REDIRECTED: "the camera redirects to another address, which is not followed",
    CameraFault.CAMERA_REFUSED: "the camera refused the stream",
    CameraFault.NOT_RTSP: "the server does not speak RTSP",
    CameraFault.DESCRIPTION_REFUSED: "the camera's stream description refers to something other than an RTSP stream",
    CameraFault.SILENT: "the camera stopped sending, or sends too slowly",
    CameraFault.LOST: "the camera closed the connection",
    CameraFault.NO_VIDEO: "the stream contains no video",
    CameraFault.UNDECODABLE: "the stream cannot be decoded",
    CameraFault.TOO_LARGE: "a frame exceeds the size limit",
    CameraFault.DECODER_DIED: "the decoder process terminated",
    CameraFault.TOO_FEW_FRAMES: "the camera delivered fewer frames than requested within the time limit",
    CameraFault.NOT_DELIVERED: "Kafka did not acknowledge a frame",
    CameraFault.NOT_DURABLE: "the captured frames were not durable in time",
    CameraFault.REJECTED: "a captured frame was rejected; `headrace dlq ls` lists it",
    CameraFault.BROKEN: "the capture worker failed; its log has the error",
}

TRANSIENT_FAULTS = frozenset(
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
"""Faults after which the worker reconnects."""

RECONNECT_BACKOFF = Backoff(0.5, 30.0)
FAILED_CONNECTS_MAX = 4  # consecutive connections without a frame
RECONNECTS_MAX = 200


def should_give_up(fault: CameraFault, *, failures: int, reconnects: int) -> bool:
    """Return whether the capture ends instead of reconnecting."""
    return fault not in TRANSIENT_FAULTS or failures >= FAILED_CONNECTS_MAX or reconnects >= RECONNECTS_MAX


def failure_reason(fault: CameraFault) -> str:
    """Return the reason that a failed request shows, as `code: sentence`."""
    return f"{fault}: {FAULT_REASONS[fault]}"
