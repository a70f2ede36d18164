"""Networks whose clients need no key."""

from ipaddress import ip_network

import pytest

from headrace.runtime.addresses import is_in, site_networks
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import load_settings


def test_each_network_has_its_site_and_the_smallest_comes_first() -> None:
    listed = site_networks("10.0.0.0/8, plant=10.4.0.0/16,fd00::/8", "main")
    assert listed == (
        (ip_network("10.4.0.0/16"), "plant"),
        (ip_network("10.0.0.0/8"), "main"),
        (ip_network("fd00::/8"), "main"),
    )


@pytest.mark.parametrize("text", ["0.0.0.0/0", "8.8.8.0/24", "::/0", "10.1.0.0/4", "2001:db8::/32", "10.1.2.3/8", "a"])
def test_a_network_that_is_not_private_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_GATEWAY_TRUST", text)
    with pytest.raises(HeadraceError, match="HEADRACE_GATEWAY_TRUST is not usable: should be private networks"):
        load_settings()


@pytest.mark.parametrize(
    ("address", "network", "belongs"),
    [
        ("10.1.2.3", "10.1.0.0/16", True),
        ("::ffff:10.1.2.3", "10.1.0.0/16", True),
        ("10.2.2.3", "10.1.0.0/16", False),
        ("fd00::1%eth0", "fd00::/8", True),
        ("unknown", "10.1.0.0/16", False),
        ("", "10.1.0.0/16", False),
    ],
)
def test_an_address_belongs_to_a_network(address: str, network: str, *, belongs: bool) -> None:
    assert is_in(address, ip_network(network)) is belongs
