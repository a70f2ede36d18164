"""GStreamer's RTSP server, run by the Python of Debian's packages: prints its port, and serves Motion JPEG."""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 - the versions have to be chosen before

USER = "user"
PIPELINE = (
    "( videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=15/1 ! jpegenc"
    " ! rtpjpegpay name=pay0 pt=26 )"
)

Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service("0")
factory = GstRtspServer.RTSPMediaFactory()
factory.set_shared(True)
factory.set_launch(PIPELINE)
auth = GstRtspServer.RTSPAuth()
auth.set_supported_methods(2)  # Digest
token = GstRtspServer.RTSPToken()
token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, USER)
auth.add_digest(USER, sys.stdin.readline().rstrip("\n"), token)
server.set_auth(auth)
allowed = GstRtspServer.RTSPPermissions()
for what in ("media.factory.access", "media.factory.construct"):
    allowed.add_permission_for_role(USER, what, True)
factory.set_permissions(allowed)
server.get_mount_points().add_factory("/stream", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
