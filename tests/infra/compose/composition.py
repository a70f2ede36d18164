"""docker-compose.yml, and the settings that each of its processes would have."""

from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from headrace.runtime.settings import Settings

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docker-compose.yml").read_text("utf-8")
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service.get("build") == ".")


def environment(name: str) -> dict[str, str]:
    return SERVICES[name].get("environment", {})


def made_up(name: str) -> str:
    return sha256(name.encode()).hexdigest()[:40]


def mounted(name: str) -> dict[str, str]:
    """The secrets of a service by the names of their files."""
    secrets = SERVICES[name].get("secrets", [])
    named = [{"source": secret, "target": secret} if isinstance(secret, str) else secret for secret in secrets]
    return {secret["target"]: secret["source"] for secret in named}


@cache
def settings_of(name: str) -> Settings:
    """The settings that the container would have, read the way it reads them; secrets are made up."""
    given = {
        variable.removeprefix("HEADRACE_").lower(): value
        for variable, value in environment(name).items()
        if variable.startswith("HEADRACE_")
    }
    assert given.pop("secrets_dir") == "/run/secrets"
    with TemporaryDirectory() as directory:
        for file, source in mounted(name).items():
            value = f"hr_admin_{made_up(source)}" if source == "gateway_admin_key" else made_up(source)
            (Path(directory) / file).write_text(f"{value}\n")
        return Settings(_env_file=None, _secrets_dir=directory, **given)
