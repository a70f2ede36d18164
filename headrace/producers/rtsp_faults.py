from enum import StrEnum


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
