"""infra/systemd/ against the code: every process has a unit that brings it back, and ends it within its time."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.native.managed_process import QUOTA_RESTART
from headrace.native.service import SERVICES
from headrace.runtime.errors import Exit
from headrace.runtime.process import STOP_S_MAX
from headrace.runtime.settings import Settings

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "infra/systemd"
PROGRAM = "/opt/headrace/bin/headrace"
PREFIX = "headrace@"
COMPOSE: dict[str, dict[str, Any]] = {
    name: service
    for name, service in yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"].items()
    if service.get("build") == "."
}
INSTANCES = sorted(
    path.name.removeprefix(PREFIX).removesuffix(".service.d") for path in UNITS.glob(f"{PREFIX}*.service.d")
)
Unit = dict[str, list[str]]


def read(*paths: Path) -> Unit:
    """Every setting of a unit and its drop-ins, by `Section.Name`; a name may come several times."""
    settings: Unit = {}
    section = ""
    for line in "\n".join(path.read_text("utf-8") for path in paths).splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif line and not line.startswith("#"):
            name, value = line.split("=", 1)
            settings.setdefault(f"{section}.{name}", []).append(value)
    return settings


def process(name: str) -> Unit:
    return read(UNITS / f"{PREFIX}.service", UNITS / f"{PREFIX}{name}.service.d/process.conf")


def init() -> Unit:
    return read(UNITS / "headrace-init.service")


def command(unit: Unit) -> tuple[str, ...]:
    (line,) = unit["Service.ExecStart"]
    program, *args = line.split()
    assert program == PROGRAM
    return tuple(args)


def environment(unit: Unit) -> dict[str, str]:
    words = " ".join(unit["Service.Environment"]).split()
    return dict(word.split("=", 1) for word in words)


def one(unit: Unit, name: str) -> str:
    (value,) = unit[f"Service.{name}"]
    return value


def test_every_process_of_the_service_has_a_unit() -> None:
    commands = {command(process(name)) for name in INSTANCES}
    assert commands == {service.args for service in SERVICES}
    assert commands == {tuple(service["command"]) for name, service in COMPOSE.items() if name != "init"}
    assert command(init()) == tuple(COMPOSE["init"]["command"])
    assert set(INSTANCES) == set(COMPOSE) - {"init"}


def test_the_target_starts_all_of_them_and_stopping_it_stops_all() -> None:
    target = read(UNITS / "headrace.target")
    wanted = {f"{PREFIX}{name}.service" for name in INSTANCES}
    assert set(target["Unit.Wants"]) == wanted | {"headrace-init.service"}
    assert target["Install.WantedBy"] == ["multi-user.target"]
    for unit in (init(), *map(process, INSTANCES)):
        assert unit["Unit.PartOf"] == ["headrace.target"]


@pytest.mark.parametrize("name", INSTANCES)
def test_a_process_comes_back_however_it_ends_and_however_often(name: str) -> None:
    unit = process(name)
    assert one(unit, "Restart") == "always"
    assert unit["Unit.StartLimitIntervalSec"] == ["0"]
    assert 0 < float(one(unit, "RestartSec")) <= float(one(unit, "RestartMaxDelaySec")) <= 10
    # A process whose init failed at first starts all the same: it says what is missing, and is tried again.
    assert "Unit.Requires" not in unit
    assert "headrace-init.service" in unit["Unit.After"][0].split()


def test_only_what_time_does_not_mend_stays_down() -> None:
    assert one(init(), "RestartPreventExitStatus") == str(int(Exit.USAGE))
    for unit in map(process, INSTANCES):
        assert one(unit, "RestartPreventExitStatus").split() == [str(int(Exit.USAGE)), str(int(Exit.REVERTED))]
    assert one(init(), "Restart") == "on-failure"
    assert init()["Unit.StartLimitIntervalSec"] == ["0"]


def test_a_stop_is_bounded_and_what_is_left_is_killed() -> None:
    for unit in (init(), *map(process, INSTANCES)):
        assert STOP_S_MAX < float(one(unit, "TimeoutStopSec")) == 20
        assert "Service.SendSIGKILL" not in unit  # it is the default
        assert "Service.KillSignal" not in unit  # SIGTERM is the default
    assert all(one(process(name), "KillMode") == "mixed" for name in INSTANCES)


def shell(line: str, directory: Path, **more: str) -> list[str]:
    """Carry out a line of the unit, with a `sleep` that only says how long it would take."""
    (directory / "bin").mkdir(exist_ok=True)
    sleep = directory / "bin/sleep"
    sleep.write_text('#!/bin/sh\necho "slept $1"\n')
    sleep.chmod(0o755)
    script = re.fullmatch(r"/bin/sh -c '(.*)'", line)
    assert script is not None
    done = subprocess.run(
        ["/bin/sh", "-c", script[1].replace("$$", "$")],
        env={"PATH": f"{directory / 'bin'}:{os.environ['PATH']}", "RUNTIME_DIRECTORY": str(directory), **more},
        check=True,
        capture_output=True,
        text=True,
        timeout=10,
    )
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize("code", [*Exit, "KILL"])
def test_the_start_after_too_many_wrong_messages_waits_and_no_other_does(code: Exit | str, tmp_path: Path) -> None:
    unit = process("worker-small")
    status = str(int(code)) if isinstance(code, Exit) else code
    shell(one(unit, "ExecStopPost"), tmp_path, EXIT_STATUS=status)
    slept = [f"slept {QUOTA_RESTART.first_s:.0f}"] if code == Exit.QUOTA else []
    assert shell(one(unit, "ExecStartPre"), tmp_path) == slept
    assert shell(one(unit, "ExecStartPre"), tmp_path) == []
    assert float(one(unit, "TimeoutStartSec")) > QUOTA_RESTART.first_s
    # The mark outlives a restart, and no stop.
    assert one(unit, "RuntimeDirectoryPreserve") == "restart"


# Where the gateway listens, and Redis, stand in headrace.env, as every address does.
FILED = {
    "HEADRACE_GATEWAY_HOST",
    "HEADRACE_GATEWAY_PORT",
    "HEADRACE_GATEWAY_LDO_PORT",
    "HEADRACE_REDIS_URL",
}
LOGIN = {"HEADRACE_POSTGRES_USER", "HEADRACE_STORE_ACCESS_KEY"}


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        *((name, process(name)) for name in INSTANCES),
        ("init", init()),
        ("maintenance", read(UNITS / "headrace-archive.service")),
    ],
    ids=[*INSTANCES, "init", "archive"],
)
def test_a_unit_has_the_login_and_the_secrets_of_the_composition(name: str, unit: Unit) -> None:
    loaded = dict(value.split(":", 1) for value in unit["Service.LoadCredential"])
    service = COMPOSE[name]
    assert loaded == {
        secret["target"]: f"/etc/headrace/secrets/{secret['source']}" for secret in service.get("secrets", [])
    }
    given = environment(unit)
    assert given["HEADRACE_SECRETS_DIR"] == "%d"
    assert {key: given.get(key) for key in LOGIN} == {key: service["environment"].get(key) for key in LOGIN}


@pytest.mark.parametrize("name", INSTANCES)
def test_memory_and_surroundings_are_those_of_the_composition(name: str) -> None:
    unit, service = process(name), COMPOSE[name]
    assert one(unit, "MemoryMax").lower() == service["mem_limit"]
    assert int(one(unit, "TasksMax")) == service["pids_limit"]
    # Addresses and secrets come from the file, and each process has a health port of its own on this machine.
    given = {"HEADRACE_LOG_FORMAT", "HEADRACE_HEALTH_PORT", "HEADRACE_SECRETS_DIR", "PYTHONUNBUFFERED", *LOGIN}
    tuned = {key: value for key, value in environment(unit).items() if key not in given}
    base = COMPOSE["init"]["environment"]
    assert tuned == {
        key: value for key, value in service["environment"].items() if key not in base and key not in FILED
    }
    assert {key.removeprefix("HEADRACE_").lower() for key in tuned if key.startswith("HEADRACE_")} <= set(
        Settings.model_fields
    )


def test_health_ports_differ() -> None:
    ports = [environment(process(name))["HEADRACE_HEALTH_PORT"] for name in INSTANCES]
    assert len(set(ports)) == len(INSTANCES)


def test_nothing_runs_as_root_or_may_write_elsewhere() -> None:
    for unit in (init(), *map(process, INSTANCES)):
        assert one(unit, "DynamicUser") == "yes"
        assert one(unit, "NoNewPrivileges") == "yes"
        assert one(unit, "ProtectSystem") == "strict"
        assert one(unit, "StateDirectory") == "headrace"
        assert one(unit, "CapabilityBoundingSet") == ""
        shared, own = unit["Service.EnvironmentFile"]
        assert shared == "/etc/headrace/headrace.env"
        assert own in {"-/etc/headrace/%i.env", "-/etc/headrace/init.env"}
    keys = re.compile(r"Service\.(Protect|Private|Restrict[^P]|SystemCall|Lock|Dynamic|User|State|UMask|NoNew)")
    protected = [
        {key: value for key, value in unit.items() if keys.match(key) and key != "Service.Restart"}
        for unit in (init(), *map(process, INSTANCES))
    ]
    assert all(one_of_them == protected[0] for one_of_them in protected)
    assert len(protected[0]) > 15


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine; the units were read as text"
)
@pytest.mark.parametrize("wrong", ["", "TasksMax=512", "MemoryMax=1G"], ids=["as it is", "template", "drop-in"])
def test_systemd_reads_them(wrong: str, tmp_path: Path) -> None:
    # systemd-analyze wants the program to be there, and a unit folder that holds nothing else.
    shutil.copytree(UNITS, tmp_path / "units")
    program = tmp_path / "headrace"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in (tmp_path / "units").rglob("*"):
        if path.suffix in {".service", ".conf"}:
            text = path.read_text().replace(PROGRAM, str(program))
            path.write_text(text.replace(wrong, "Mistaken=1") if wrong else text)
    units = [f"{PREFIX}{name}.service" for name in INSTANCES] + ["headrace-init.service", "headrace.target"]
    for name in INSTANCES:  # an instance is only a name until somebody starts it
        (tmp_path / f"units/{PREFIX}{name}.service").symlink_to(f"{PREFIX}.service")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        cwd=tmp_path / "units",
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path / 'units'}:"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    newer = re.compile(r"Unknown key (name )?'Restart(Steps|MaxDelaySec)'")
    complaints = [line for line in done.stderr.splitlines() if "headrace" in line and not newer.search(line)]
    assert all("Mistaken" in line for line in complaints)
    assert bool(complaints) == bool(wrong), "a mistake is seen wherever it stands"
    assert done.returncode == 0, done.stderr
