"""MinIO's users of infra/minio, made with the script and the policies that a deployment uses."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from headrace.native.minio import BuildError, GoProgram, go_install
from headrace.runtime.settings import Settings

INFRA = Path(__file__).parents[2] / "infra/minio"
POLICIES = sorted(path.stem for path in (INFRA / "policies").iterdir())
_PROGRAM = GoProgram("mc", "github.com/minio/mc", "v0.0.0-20250313080218-cf909e1063a9")
_RUN_S_MAX = 60


def mc() -> Path:
    """MinIO's client: PATH's, or the one that was built before, or a fresh build (minutes, once)."""
    go = shutil.which("go")
    if on_path := shutil.which("mc"):
        return Path(on_path)
    if not _PROGRAM.built.is_file() and go is None:
        pytest.skip("there is no mc on this machine, and no Go to build it with")
    try:
        return go_install(_PROGRAM, go or "", print)
    except BuildError as error:
        pytest.fail(f"mc could not be built: {error}")


@dataclass(frozen=True)
class StoreUsers:
    """The users of a running MinIO: a key for each policy, in files as of a deployment."""

    settings: Settings
    folder: Path

    @classmethod
    def make(cls, settings: Settings, folder: Path) -> "StoreUsers":
        """Make them; the root's keys are those of the settings."""
        users = cls(settings, folder)
        root = {"minio_root_user": settings.store_access_key, "minio_root_password": settings.store_secret_key}
        for name, value in root.items():
            (folder / name).write_text(f"{value.get_secret_value()}\n")
        for policy in POLICIES:
            users.key_file(policy).write_text(f"{secrets.token_hex(20)}\n")
        users.run()
        return users

    def key_file(self, policy: str) -> Path:
        return self.folder / f"store_{policy}_secret_key"

    def run(self) -> None:
        """Run the script, as for each change of a key."""
        environment = {
            "PATH": f"{mc().parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "MC_CONFIG_DIR": str(self.folder / "mc"),
            "STORE_ENDPOINT": self.settings.store_endpoint,
            "SECRETS_DIR": str(self.folder),
        }
        done = subprocess.run(
            ["sh", INFRA / "make-users"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_RUN_S_MAX,
        )
        assert done.returncode == 0, done.stderr
        for path in self.folder.iterdir():
            if path.is_file():
                assert path.read_text().strip() not in done.stdout + done.stderr

    def as_user(self, policy: str, settings: Settings | None = None) -> Settings:
        """The settings with the key of a user, and with what the settings of a deployment change."""
        return (settings or self.settings).model_copy(update=self.keys(policy))

    def keys(self, policy: str) -> Mapping[str, SecretStr]:
        return {
            "store_access_key": SecretStr(f"headrace-{policy}"),
            "store_secret_key": SecretStr(self.key_file(policy).read_text().strip()),
        }
