"""Tests a camera's stream in stages, from the name to the first frame, as a capture worker would read it."""

from dataclasses import dataclass

from headrace.gateway.capture.camera_faults import FAULT_REASONS, CameraFault, StreamLostError
from headrace.gateway.capture.camera_url import CameraUrl, CameraUrlError, parse_camera_url
from headrace.gateway.capture.rtsp_proxy import CameraAddress
from headrace.gateway.capture.rtsp_stream import RtspStream, StreamInfo, StreamRequest
from headrace.runtime.addresses import AddressNotAllowedError, UnresolvedHostError, networks_of, resolve
from headrace.runtime.settings import Settings

NAME, CONNECTION, LOGIN, CODEC, FRAME = STAGES = ("name", "connection", "login", "codec", "first frame")

_STAGE_OF = {
    CameraFault.UNREACHABLE: CONNECTION,
    CameraFault.CERTIFICATE_REFUSED: CONNECTION,
    CameraFault.NOT_RTSP: CONNECTION,
    CameraFault.LOGIN_REFUSED: LOGIN,
    CameraFault.STREAM_UNKNOWN: LOGIN,
    CameraFault.REDIRECTED: LOGIN,
    CameraFault.CAMERA_REFUSED: LOGIN,
    CameraFault.DESCRIPTION_REFUSED: CODEC,
    CameraFault.NO_VIDEO: CODEC,
}
_HINTS = {
    CameraFault.NAME_UNKNOWN: "check the host name, or use the camera's IP address",
    CameraFault.UNREACHABLE: "check address and port (554 by default), the cable, and a firewall between",
    CameraFault.CERTIFICATE_REFUSED: "use the name in the certificate, or rtsp:// within a network that you trust",
    CameraFault.NOT_RTSP: "this port is not the camera's RTSP port; often it is 554 or 8554",
    CameraFault.LOGIN_REFUSED: "check user and password, and that the user may watch the live stream",
    CameraFault.STREAM_UNKNOWN: "check the path: the camera's manual, or its ONVIF profile, names it",
    CameraFault.CAMERA_REFUSED: "the camera may allow fewer viewers at once: close others",
    CameraFault.NO_VIDEO: "choose the path of a video stream",
    CameraFault.UNDECODABLE: "set the camera to H.264 or H.265, and a key frame each one or two seconds",
    CameraFault.SILENT: "check the network's bandwidth, and set a key frame each one or two seconds",
    CameraFault.LOST: "the camera may allow fewer viewers at once: close others",
}
_FRAME_S_MAX = 20.0


@dataclass(frozen=True, slots=True)
class StageResult:
    """The outcome of one stage; `hint` says what to do where it failed."""

    stage: str
    ok: bool
    detail: str
    hint: str = ""


async def probe_stream(text: str, settings: Settings, *, site: str) -> list[StageResult]:
    """Return the stages up to the first that fails, and at best up to the first frame."""
    try:
        url = parse_camera_url(text)
    except CameraUrlError as error:
        return [StageResult(NAME, ok=False, detail=str(error), hint="write rtsp://user:password@host:554/path")]
    address = await _address(url, settings, site)
    if isinstance(address, StageResult):
        return [address]
    results = [StageResult(NAME, ok=True, detail=f"{url.host} is {', '.join(address.addresses)}")]
    return results + await _stream(url, address, confined=settings.capture_confinement == "on")


async def _address(url: CameraUrl, settings: Settings, site: str) -> CameraAddress | StageResult:
    try:
        addresses = await resolve(url.host, url.port, networks_of(settings.gateway_camera_networks, site))
    except UnresolvedHostError:
        fault = CameraFault.NAME_UNKNOWN
        return StageResult(NAME, ok=False, detail=FAULT_REASONS[fault], hint=_HINTS[fault])
    except AddressNotAllowedError:
        return StageResult(
            NAME,
            ok=False,
            detail=FAULT_REASONS[CameraFault.ADDRESS_REFUSED],
            hint="a private network is listed in one setting, such as HEADRACE_GATEWAY_CAMERA_NETWORKS="
            "192.168.10.0/24; then `headrace down` and `headrace up`",
        )
    return CameraAddress(addresses, url.port, url.host if url.scheme == "rtsps" else None, url.host)


async def _stream(url: CameraUrl, address: CameraAddress, *, confined: bool) -> list[StageResult]:
    login = None if url.login is None else (url.login.user, url.login.password)
    request = StreamRequest(target=url.target, login=login, fps=1.0, duration_s=_FRAME_S_MAX, frame_count=1)
    codec = ""
    try:
        async with RtspStream(address, request, confined=confined) as stream:
            async for item in stream.items():
                if isinstance(item, StreamInfo):
                    codec = f"{item.codec}, {item.width}x{item.height}"
                    continue
                return [*_passed(FRAME, url, codec), StageResult(FRAME, ok=True, detail="decoded")]
    except StreamLostError as lost:
        stage = _STAGE_OF.get(lost.fault, FRAME if codec else CODEC)
        failed = StageResult(stage, ok=False, detail=FAULT_REASONS[lost.fault], hint=_HINTS.get(lost.fault, ""))
        return [*_passed(stage, url, codec), failed]
    hint = _HINTS[CameraFault.SILENT]
    return [*_passed(FRAME, url, codec), StageResult(FRAME, ok=False, detail="no frame came", hint=hint)]


def _passed(before: str, url: CameraUrl, codec: str) -> list[StageResult]:
    details = {
        CONNECTION: f"{url.host}:{url.port} answers",
        LOGIN: "accepted" if url.login is not None else "none needed",
        CODEC: codec or "known",
    }
    stages = STAGES[1 : STAGES.index(before)]
    return [StageResult(stage, ok=True, detail=details[stage]) for stage in stages]
