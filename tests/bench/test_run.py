from pathlib import Path

import pytest

from headrace.bench import run
from headrace.bench.quix import PeerEnvironment
from headrace.bench.run import BenchOptions
from headrace.runtime.errors import HeadraceError

PEERS = PeerEnvironment(Path("peers"))


@pytest.mark.parametrize(
    ("cases", "options", "peers"),
    [
        (["frames", "idle"], BenchOptions("minio"), PEERS),
        (["frames"], BenchOptions("local"), None),
        (["latency"], BenchOptions("minio"), None),
        (["latency"], BenchOptions("local", profiles=Path("graphs")), PEERS),
    ],
)
def test_the_peers_are_installed_where_they_are_needed(
    cases: list[str], options: BenchOptions, peers: PeerEnvironment | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run, "peer_environment", lambda _: PEERS)
    assert run._peers(cases, options, lambda _: None) == peers


def test_without_the_network_only_flame_graphs_are_refused(monkeypatch: pytest.MonkeyPatch):
    def fail(_: object) -> None:
        raise HeadraceError("peers_missing", "no network")

    said: list[str] = []
    monkeypatch.setattr(run, "peer_environment", fail)
    assert run._peers(["ldos"], BenchOptions("minio"), said.append) is None
    assert said == ["peers_missing: no network"]
    with pytest.raises(HeadraceError, match="no network"):
        run._peers(["ldos"], BenchOptions("minio", profiles=Path("graphs")), said.append)


def test_an_installed_package_cannot_write_flame_graphs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "peer_environment", lambda _: None)
    with pytest.raises(HeadraceError, match="need a checkout"):
        run._peers(["ldos"], BenchOptions("minio", profiles=Path("graphs")), lambda _: None)
