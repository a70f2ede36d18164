"""`sites.toml`: what it says, and what is refused with the line."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.events import Kind
from headrace.sites.mm2 import login_variable, logins, properties, text_of
from headrace.sites.plan import acls, mirrored_topics
from headrace.sites.topology import Carries, Flow, Site, Topology, parse

FILE = """\
[sites.factory-a]
bootstrap = "kafka.factory-a:9092"
security = "SASL_SSL"
username = "link-central"
password = { env = "FACTORY_A_PASSWORD" }
ca_file = "/etc/headrace/factory-a.pem"

[sites.factory-b]
bootstrap = "kafka.factory-b:9092"

[sites.central]
bootstrap = "kafka-1:9092,kafka-2:9092,kafka-3:9092"
security = "SASL_PLAINTEXT"
username = "mirror"
password = { file = "/run/secrets/mirror" }
replicas = 3

[[flows]]
from = "factory-a"
to = "central"
bytes_per_s = 125000
hours = ["20:00-06:00"]

[flows.login]
username = "link-factory-a"
password = { env = "LINK_A_PASSWORD" }

[[flows]]
from = "factory-b"
to = "central"
carries = "ingested"
kinds = ["frame", "ldo"]
cut_hours_max = 2400
"""


def read(text: str = FILE) -> Topology:
    return parse(text, name="sites.toml")


def refused(text: str) -> HeadraceError:
    with pytest.raises(HeadraceError) as caught:
        read(text)
    error = caught.value
    assert (error.code, error.exit_code) == ("sites_invalid", Exit.USAGE)
    assert error.hint
    return error


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def test_flows_name_their_topics_and_their_copies() -> None:
    first, second = read().flows_to("central")
    assert (first.carries, [topic.name for topic in first.topics]) == (
        Carries.RAW,
        ["edge.cids.v1", "edge.frames.v1", "edge.clips.v1", "edge.ldos.v1"],
    )
    assert [topic.name for topic in second.topics] == ["ingested.frames.v1", "ingested.ldos.v1"]
    assert first.mirrored("edge.frames.v1") == "factory-a.edge.frames.v1"
    assert second.kinds == (Kind.FRAME, Kind.LDO)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('bootstrap = "kafka.factory-b:9092"', 'bootstrap = "kafka.factory-b"', "bootstrap"),
        ("replicas = 3", "replicas = 30", "replicas"),
        ("replicas = 3", "replica = 3", "Extra inputs"),
        ('"20:00-06:00"', '"8pm-6am"', "HH:MM-HH:MM in UTC"),
        ("bytes_per_s = 125000", "bytes_per_s = 12", "bytes_per_s"),
        ('kinds = ["frame", "ldo"]', 'kinds = ["pictures"]', "kinds"),
        ('carries = "ingested"', 'carries = "everything"', "'raw', 'ingested' or 'metadata'"),
        ('{ file = "/run/secrets/mirror" }', '"secret-in-the-file"', "password"),
        ('{ file = "/run/secrets/mirror" }', '{ file = "/x", env = "Y" }', "VARIABLE"),
        ("[sites.factory-b]", "[sites.Factory_B]", "Factory_B"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line_and_without_it(old: str, new: str, told: str) -> None:
    text = FILE.replace(old, new)
    error = refused(text)
    assert f"line {line_of(text, new)}" in error.where
    assert told in error.what
    assert "secret-in-the-file" not in str(error)


def test_what_is_missing_is_refused_at_its_table() -> None:
    text = FILE.replace('username = "mirror"\n', "")
    assert f"line {line_of(text, '[sites.central]')}" in refused(text).where
    assert "line 3" in refused("[sites.a]\nbootstrap = 'a:1'\nbootstrap = \n").what


@pytest.mark.parametrize(
    ("flows", "cycle"),
    [
        ([("a", "b"), ("b", "c"), ("c", "a")], "a -> b -> c -> a"),
        ([("a", "c"), ("b", "a"), ("a", "b")], "a -> b -> a"),
        ([("a", "a")], "a -> a"),
    ],
)
def test_a_cycle_is_refused_and_printed(flows: list[tuple[str, str]], cycle: str) -> None:
    sites = "".join(f'[sites.{name}]\nbootstrap = "{name}:9092"\n' for name in "abc")
    text = sites + "".join(f'[[flows]]\nfrom = "{source}"\nto = "{target}"\n' for source, target in flows)
    error = refused(text)
    assert cycle in error.what
    assert f"line {7 + 3 * (len(flows) - 1)}" in error.where


def test_flows_that_meet_are_no_cycle() -> None:
    sites = "".join(f'[sites.{name}]\nbootstrap = "{name}:9092"\n' for name in "abcd")
    pairs = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]
    assert len(read(sites + "".join(f'[[flows]]\nfrom = "{a}"\nto = "{b}"\n' for a, b in pairs)).flows) == 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('to = "central"\ncarries', 'to = "centre"\ncarries'), "there is no [sites.centre]"),
        (('from = "factory-b"', 'from = "factory-a"'), "a second flow from factory-a to central"),
        (('username = "mirror"\npassword = { file = "/run/secrets/mirror" }', ""), "needs username and password"),
        (('security = "SASL_PLAINTEXT"', ""), "central has no SASL"),
    ],
)
def test_flows_that_contradict_the_sites_are_refused(change: tuple[str, str], told: str) -> None:
    assert told in refused(FILE.replace(*change)).what


@pytest.mark.parametrize(("hour", "is_open"), [(19, False), (20, True), (3, True), (6, False)])
def test_a_link_is_open_in_its_hours(hour: int, is_open: bool) -> None:
    first, second = read().flows
    at = datetime(2026, 12, 1, hour, tzinfo=UTC)
    assert first.is_open(at) == is_open
    assert second.is_open(at)


def test_the_target_is_the_only_one_or_the_one_that_is_named() -> None:
    assert read().only_target(None, where="f") == "central"
    with pytest.raises(HeadraceError, match="no flow leads to 'factory-a'"):
        read().only_target("factory-a", where="f")


def test_mirrored_topics_have_settings_that_mirrormaker_would_not_give_them() -> None:
    topology = read()
    first, second = topology.flows
    frames = mirrored_topics(first, topology.sites["central"], {"edge.frames.v1": 12})[1]
    assert (frames.name, frames.partitions, frames.replicas) == ("factory-a.edge.frames.v1", 12, 3)
    assert frames.config["message.timestamp.type"] == "LogAppendTime"
    assert frames.config["min.insync.replicas"] == "2"
    assert int(frames.config["retention.ms"]) == 7 * 86_400_000
    kept = mirrored_topics(second, topology.sites["central"], {})[0]
    assert (int(kept.config["retention.ms"]), kept.partitions) == (2400 * 3_600_000, None)


def test_a_link_may_read_its_topics_and_write_its_copies_and_nothing_else() -> None:
    rules = acls(read(), "central")
    far = {(rule.principal, rule.operation, rule.name) for rule in rules if rule.site == "factory-a"}
    assert {operation for _, operation, _ in far} == {"Read", "Describe", "DescribeConfigs"}
    assert {name for _, _, name in far} == {f"edge.{kind}s.v1" for kind in Kind}
    near = {(rule.operation, rule.name) for rule in rules if rule.principal == "User:link-factory-a"}
    written = {name for operation, name in near if operation == "Write"}
    assert written == {f"factory-a.edge.{kind}s.v1" for kind in Kind} | {
        "mm2-offsets.factory-a.internal",
        "factory-a-mm2-",
    }


def test_the_configuration_holds_no_secret_and_bounds_what_it_buffers() -> None:
    topology = read()
    settings = properties(topology.sites, topology.flows, "central")
    text = text_of(settings)
    assert settings["factory-a.sasl.jaas.config"] == f"${{env:{login_variable('factory-a')}}}"
    link = "factory-a->central"
    assert settings[f"{link}.producer.override.sasl.jaas.config"] == f"${{env:{login_variable(link)}}}"
    assert settings[f"{link}.transforms.origin.bytes.per.second"] == "125000"
    assert settings[f"{link}.tasks.max"] == "1"
    assert int(settings["factory-a.consumer.fetch.max.bytes"]) == 1_250_000
    assert settings["central.exactly.once.source.support"] == "enabled"
    assert settings["factory-b.consumer.isolation.level"] == "read_committed"
    assert settings["listeners"].startswith("http://127.0.0.1")
    assert settings["factory-b->central.topics"] == "ingested[.]frames[.]v1,ingested[.]ldos[.]v1"
    assert "factory-b.sasl.mechanism" not in text
    wanted = logins(topology.sites, topology.flows, "central")
    assert {login.username for _, login in wanted.values()} == {"link-central", "mirror", "link-factory-a"}
    assert wanted.keys() == {name for name in wanted if f"${{env:{name}}}" in text}


def test_the_example_of_the_documentation_is_valid() -> None:
    text = (Path(__file__).parents[2] / "docs/sites.md").read_text("utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    topology = read(example)
    assert topology.only_target(None, where="") == "central"
    for model in (Site, Flow):
        keys = {field.alias or name for name, field in model.model_fields.items()}
        assert not [key for key in keys if f"`{key}`" not in text]
