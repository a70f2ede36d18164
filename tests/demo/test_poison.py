from random import Random

import pytest

from headrace.demo.fault_injector import POISONS, Ingredients, wrong_digest
from headrace.demo.line import Line
from headrace.producers import describe_frame
from headrace.producers.video_frames import to_jpeg
from headrace.schemas.events import Origin
from headrace.schemas.topics import input_topic
from headrace.streams.core.delivery import ConsumedMessage
from headrace.streams.core.examine import RejectedDelivery, examine

NOW_US = 1_760_000_000_000_000
ORIGIN = Origin(source_id="old-device", site="plant", captured_at_us=NOW_US, sequence=3)


@pytest.mark.parametrize("build", [*POISONS, wrong_digest], ids=lambda build: build.__name__)
def test_poison_is_rejected_with_its_code(build):
    frame = describe_frame(to_jpeg(Line("A", "plant", seed=7).picture(30), 88), ORIGIN)
    poison = build(Ingredients(ORIGIN, frame, Random(1)))
    topic = input_topic(poison.kind)
    assert len(poison.value or b"") < topic.message_bytes_max
    verdict = examine(poison.kind, ConsumedMessage(topic.name, 0, 0, NOW_US, b"k", poison.value, ()))
    assert isinstance(verdict, RejectedDelivery)
    assert verdict.code == poison.code


def test_every_poison_has_a_code_of_its_own():
    frame = describe_frame(to_jpeg(Line("A", "plant", seed=7).picture(30), 88), ORIGIN)
    codes = [build(Ingredients(ORIGIN, frame, Random(1))).code for build in (*POISONS, wrong_digest)]
    assert len(set(codes)) == len(codes)
