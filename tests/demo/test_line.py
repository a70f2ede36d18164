from random import Random

import numpy as np
import orjson

from headrace.demo.line import HEIGHT, PICTURES_PER_S, WIDTH, Line, clip_of, draw, readings_of
from headrace.producers.camera import find_codes
from headrace.producers.video_frames import from_image, to_jpeg
from headrace.schemas.digest import canonical_body
from headrace.schemas.events import Ldo
from headrace.schemas.media_probe import probe_of


def test_a_camera_finds_the_code_of_every_part_that_came_past():
    line = Line("A", "plant", seed=7)
    pictures = [from_image(to_jpeg(line.picture(index), 88)) for index in range(120)]
    codes = {code.text for picture in pictures for code in find_codes(picture)}
    assert codes == {line.part(index).code for index in range(len(codes))}
    assert len(codes) >= 6
    assert all(code.startswith("PART-A-") for code in codes)


def test_the_same_seed_shows_the_same_line_and_another_seed_another():
    first, again, other = (Line("A", "plant", seed=seed) for seed in (7, 7, 8))
    assert np.array_equal(first.picture(40), again.picture(40))
    assert not np.array_equal(first.picture(40), other.picture(40))
    assert first.part(3) == again.part(3)
    assert first.picture(0).shape == (HEIGHT, WIDTH, 3)


def test_every_picture_is_another_one():
    line = Line("A", "plant", seed=7)
    assert len({to_jpeg(line.picture(index), 88) for index in range(60)}) == 60


def test_a_clip_shows_the_last_five_seconds(tmp_path):
    pictures = draw(Line("A", "plant", seed=7), tmp_path / "film", pictures=8 * PICTURES_PER_S)
    body = clip_of(pictures, 70)
    header = probe_of(body).video()
    assert (header.width, header.height) == (WIDTH, HEIGHT)
    assert 4_800_000 <= header.duration_us <= 5_200_000


def test_readings_make_an_ldo_that_can_be_ingested():
    line = Line("A", "plant", seed=7)
    readings = readings_of(line.part(3), Random(1))
    body = orjson.dumps(
        {"sensor_data": readings.sensor_data, "context": readings.context, "prediction": readings.prediction}
    )
    ldo = Ldo(source_id="d", site="s", captured_at_us=1_700_000_000_000_000, sequence=1, ldo_id="d-1", body=body)
    assert line.part(3).code.encode() in canonical_body(ldo)
    assert readings.prediction["label"] == ("scratched" if line.part(3).scratched else "good")
