"""The Dockerfile and the locks: the image holds what the service needs, and nothing that it does not."""

import fnmatch
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from headrace.runtime.settings import Settings

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text("utf-8"))
STEPS = [line.split(None, 1) for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
FINAL = STEPS[max(i for i, (word, _) in enumerate(STEPS) if word == "FROM") :]
COPIED = [
    source for word, rest in STEPS if word == "COPY" and not rest.startswith("--from") for source in rest.split()[:-1]
]


def locked(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", text, re.MULTILINE))


def final(word: str) -> list[str]:
    return [rest for step, rest in FINAL if step == word]


def test_it_is_built_in_stages_from_a_pinned_slim_python() -> None:
    bases = [rest.split()[0] for word, rest in STEPS if word == "FROM"]
    assert bases == ["python:3.11-slim-bookworm"] * 2
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    known = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in STEPS} <= known


def test_the_process_is_headrace_and_not_root() -> None:
    (user,) = final("USER")
    assert int(user) > 0
    (entry,) = final("ENTRYPOINT")
    (command,) = json.loads(entry)
    assert command in PROJECT["project"]["scripts"]


def test_its_settings_exist_and_its_port_is_the_health_checks() -> None:
    given = dict(pair.split("=") for line in final("ENV") for pair in line.split() if pair.startswith("HEADRACE_"))
    named = {name.removeprefix("HEADRACE_").lower(): value for name, value in given.items()}
    assert set(named) <= set(Settings.model_fields)
    settings = Settings(_env_file=None, **named)
    assert final("EXPOSE") == [str(settings.health_port)]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    assert compose["services"]["relay"]["environment"]["HEADRACE_HEALTH_PORT"] == str(settings.health_port)


def test_what_it_copies_exists_and_is_sent_to_the_builder() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(COPIED) == kept
    assert all((ROOT / source).exists() for source in COPIED)


def test_every_package_of_the_project_is_in_it() -> None:
    patterns = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {
        path.name
        for path in ROOT.iterdir()
        if (path / "__init__.py").exists() and any(fnmatch.fnmatch(path.name, p) for p in patterns)
    }
    assert packages <= set(COPIED)


# For the machine around the service, and not a part of the package.
DEPLOYED = ("infra/compose", "infra/cron", "infra/kubernetes", "infra/systemd")


def test_every_file_beside_the_code_is_packed() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    code = [source for source in COPIED if (ROOT / source).is_dir()]
    beside = [
        path
        for source in code
        for path in (ROOT / source).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
        if not any(folder in path.as_posix() for folder in DEPLOYED)
    ]
    assert beside
    assert not [path for path in beside if not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)]


def test_dependencies_are_installed_by_hash_and_from_no_named_registry() -> None:
    for run in re.findall(r"pip[^&]*install[^&]*-r [^&]*", DOCKERFILE):
        assert "--require-hashes" in run
    for name in ("Dockerfile", "Makefile", ".ci/run", ".ci/venv", *LOCKS):
        assert not re.search(r"https?://", (ROOT / name).read_text("utf-8")), name


LOCKS = ("requirements.lock", "requirements-service.lock", "requirements-bootstrap.lock")


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_version_has_hashes(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    entries = [entry for entry in re.split(r"\n(?=[a-z0-9])", text) if "==" in entry]
    assert len(entries) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE))
    assert all("--hash=sha256:" in entry for entry in entries)


def test_what_is_tested_is_what_is_deployed() -> None:
    full, service = locked("requirements.lock"), locked("requirements-service.lock")
    assert service
    assert {name: full.get(name) for name in service} == service


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def test_the_locks_hold_what_the_project_asks_for() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    deployed = [
        *project["dependencies"],
        *(requirement for name in ("camera", "gateway", "service") for requirement in extras[name]),
    ]
    assert names(deployed) <= set(locked("requirements-service.lock"))
    wanted = names([*project["dependencies"], *(requirement for extra in extras.values() for requirement in extra)])
    assert wanted - {project["name"]} <= set(locked("requirements.lock"))  # an extra may name others of the project
    assert names(PROJECT["build-system"]["requires"]) <= set(locked("requirements-bootstrap.lock"))


def test_the_image_brings_no_servers_and_no_test_tools() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    # pyyaml and the like may be there because a dependency of the service needs them.
    assert not names(extras["native"]) & set(locked("requirements-service.lock"))
    assert not {"pytest", "mypy", "ruff", "hypothesis"} & set(locked("requirements-service.lock"))
