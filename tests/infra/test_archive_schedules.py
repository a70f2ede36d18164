"""The schedules in infra/ against the code: they run a command that exists, at the hour that is promised, protected."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from headrace.cli.app import app
from headrace.runtime.settings import Settings

ROOT = Path(__file__).parents[2]
CRON = (ROOT / "infra/cron/headrace-archive").read_text("utf-8")
UNIT = (ROOT / "infra/systemd/headrace-archive.service").read_text("utf-8")
INIT = (ROOT / "infra/systemd/headrace-init.service").read_text("utf-8")
TIMER = (ROOT / "infra/systemd/headrace-archive.timer").read_text("utf-8")
JOB = yaml.safe_load((ROOT / "infra/kubernetes/archive.yaml").read_text("utf-8"))
POD = JOB["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def arguments() -> dict[str, list[str]]:
    (cron,) = re.findall(r"^0 2 \* \* \* headrace .*/headrace (.+)$", CRON, re.MULTILINE)
    (unit,) = re.findall(r"^ExecStart=/opt/headrace/bin/headrace (.+)$", UNIT, re.MULTILINE)
    return {"cron": cron.split(), "systemd": unit.split(), "kubernetes": POD["containers"][0]["args"]}


@pytest.mark.parametrize("place", ["cron", "systemd", "kubernetes"])
def test_it_runs_a_command_with_options_that_exist(place: str) -> None:
    name, *options = arguments()[place]
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    assert name == "archive"
    assert set(options) <= {option for parameter in command.params for option in parameter.opts}


def test_every_setting_that_they_name_exists() -> None:
    named = set(
        re.findall(r"HEADRACE_([A-Z_]+)", UNIT + CRON + (ROOT / "infra/kubernetes/archive.yaml").read_text("utf-8"))
    )
    assert {"LOG_FORMAT", "STORE_ACCESS_KEY"} <= named
    assert {name.lower() for name in named - {""}} <= set(Settings.model_fields)


def test_all_of_them_run_at_two_every_night() -> None:
    assert "OnCalendar=*-*-* 02:00:00" in TIMER
    assert JOB["spec"]["schedule"] == "0 2 * * *"
    assert JOB["spec"]["concurrencyPolicy"] == "Forbid"


def test_the_unit_is_as_protected_as_the_others() -> None:
    protected = INIT[INIT.index("Environment=HEADRACE_SECRETS_DIR") :]
    assert "ProtectSystem=strict" in protected
    assert UNIT.endswith(protected)


def test_the_pod_may_do_nothing_that_it_need_not() -> None:
    assert POD["securityContext"]["runAsNonRoot"]
    (container,) = POD["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["envFrom"] == [{"configMapRef": {"name": "headrace"}}]
    assert not POD["automountServiceAccountToken"]
