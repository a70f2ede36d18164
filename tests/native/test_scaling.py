from headrace.native.config import ServiceSpec
from headrace.native.scaling import scaled, workers_of
from headrace.native.service import SERVICES

RELAY = ServiceSpec("relay", ("relay",))
MEDIA = ServiceSpec("worker-media", ("worker", "--kinds", "frames,clips"))


def test_only_workers_are_multiplied_and_keep_their_arguments() -> None:
    services = scaled((MEDIA, RELAY), 3)
    assert [service.name for service in services] == ["worker-media", "worker-media-2", "worker-media-3", "relay"]
    assert {service.args for service in services if service != RELAY} == {MEDIA.args}


def test_scaling_again_forgets_the_number_before() -> None:
    assert workers_of(scaled(SERVICES, 3)) == 3
    assert scaled(scaled(SERVICES, 3), 2) == scaled(SERVICES, 2)
    assert scaled(scaled(SERVICES, 3), 1) == SERVICES
    assert workers_of(SERVICES) == 1
    assert workers_of(()) == 1
