"""What is written about the settings is what the settings are."""

import runpy
from pathlib import Path

import pytest
from pydantic import SecretStr

from headrace.runtime import env_example
from headrace.runtime.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("which", "file"), [("env", ".env.example"), ("table", "docs/settings.md")], ids=["env", "table"]
)
def test_the_committed_text_is_up_to_date(
    which: str, file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["env_example", which])
    runpy.run_path(env_example.__file__, run_name="__main__")
    assert (ROOT / file).read_text("utf-8") == capsys.readouterr().out, "run: make contract"


def uncommented() -> dict[str, str]:
    lines = [line.removeprefix("#") for line in env_example.env().splitlines() if line.startswith("#HEADRACE_")]
    return dict(line.split("=", 1) for line in lines)


def test_a_copy_of_the_example_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(env_example.env())
    assert Settings(_env_file=tmp_path / ".env") == Settings(_env_file=None)


def test_every_line_of_the_example_may_be_set_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    for name, value in uncommented().items():
        if not name.endswith("_DSN"):
            monkeypatch.setenv(name, value)
    assert load_settings() == Settings(_env_file=None)


def test_no_secret_has_a_value_in_what_is_written() -> None:
    secrets = [name for name, field in Settings.model_fields.items() if field.annotation is SecretStr]
    assert secrets
    for name in secrets:
        assert uncommented()[f"HEADRACE_{name.upper()}"] == ""
        assert f"`HEADRACE_{name.upper()}`" in env_example.table()
    assert "postgresql://" not in env_example.table()


def test_bounds_and_choices_are_told() -> None:
    assert "| `1` | ≥ 1 and ≤ 7 |" in env_example.table()
    assert "| json, console |" in env_example.table()
    assert "PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL" in env_example.table()
