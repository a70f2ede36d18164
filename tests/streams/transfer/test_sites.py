"""The file of sites: what it says, and one sentence where it is wrong."""

from pathlib import Path

import pytest

from headrace.runtime.errors import HeadraceError
from headrace.streams.transfer.limits import HoursLimit
from headrace.streams.transfer.sites import read_sites


def test_a_site_has_a_store_and_limits(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("quiet\n")
    file = tmp_path / "transfer.toml"
    file.write_text(
        f"""
        [factory-a]
        store_url = "s3://headrace"
        store_endpoint = "https://minio.factory-a.example:9000"
        store_access_key = "centre"
        store_secret_key_file = "{secret}"
        limits = [{{ hours = "06-22", kbit_per_s = 1000 }}, {{ kbit_per_s = 0 }}]

        [factory-b]
        store_url = "file:///{tmp_path}/b"
        """
    )
    sites = read_sites(str(file))
    assert sorted(sites) == ["factory-a", "factory-b"]
    assert sites["factory-a"].hours_limits() == [HoursLimit(6, 22, 125_000), HoursLimit(0, 0, 0)]
    assert sites["factory-b"].hours_limits() == []
    assert "factory-a.example" in sites["factory-a"].opened().where


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[factory-a", "not TOML"),
        ("[factory-a]", "factory-a.store_url"),
        ('["a.b"]\nstore_url = "s3://x"', "a.b"),
        ('[a]\nstore_url = "http://user:hidden@x"', "a.store_url"),
        ('[a]\nstore_url = "s3://x"\nsecret_key = "hidden"', "a.secret_key"),
        ('[a]\nstore_url = "s3://x"\nlimits = [{ hours = "6-22", kbit_per_s = 1 }]', "a.limits.0.hours"),
        ('[a]\nstore_url = "s3://x"\nlimits = [{ hours = "06-24", kbit_per_s = 1 }]', "a.limits.0.hours"),
        ('[a]\nstore_url = "s3://x"\nlimits = [{ kbit_per_s = -1 }]', "a.limits.0.kbit_per_s"),
        ('[a]\nstore_url = "s3://x"\nstore_secret_key_file = "/nowhere"', "a.store_secret_key_file"),
    ],
)
def test_what_is_wrong_is_named_and_no_secret_is(tmp_path: Path, text: str, place: str) -> None:
    file = tmp_path / "transfer.toml"
    file.write_text(text)
    with pytest.raises(HeadraceError) as raised:
        read_sites(str(file))
    assert raised.value.code == "transfer_sites_invalid"
    assert place in raised.value.what
    assert "hidden" not in raised.value.what


@pytest.mark.parametrize("path", ["", "/nowhere/transfer.toml"])
def test_a_missing_file_is_named(path: str) -> None:
    with pytest.raises(HeadraceError, match=r"HEADRACE_TRANSFER_SITES|nowhere"):
        read_sites(path)
