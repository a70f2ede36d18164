"""The sink and the gateway that it is made for."""

from pathlib import Path

import pytest

from headrace.ldo_sink import from_env
from tests.gateway.gateway_world import Gateway, name
from tests.waiting import until

pytestmark = pytest.mark.stack


def test_what_the_sink_sends_is_ingested_with_its_video(gateway: Gateway, video: Path, tmp_path: Path) -> None:
    clip = video / "bottle-detection.mp4"
    ldo_id, device = name("ldo"), name("device")
    sink = from_env(
        {
            "USE_DATA_INGESTION": "true",
            "DATA_INGESTION_URL": gateway.url.replace("://", f"://edge:{gateway.key(sources=['default/*'])}@"),
            "DATA_INGESTION_SPOOL": str(tmp_path),
        }
    )
    context = {"device_id": device}
    assert sink.send(ldo_id, sensor_data={"x": 1}, context=context, prediction={"label": "good"}, video=clip)
    assert sink.send(name("ldo"), context=context)
    assert sink.send(name("ldo"), context=context, video=b"no video")
    assert sink.flush(60), sink.counts()
    assert (sink.counts().sent, sink.counts().dropped) == (2, {"refused": 1})
    sink.close()

    def clips() -> list[tuple[object, ...]]:
        return gateway.rows(
            "select source_id, b.size_bytes from records join blobs b on b.sha256 = clip_sha256 where ldo_id = %s",
            ldo_id,
        )

    until(clips, 60, "the LDO and its clip")
    assert clips() == [(device, clip.stat().st_size)]
