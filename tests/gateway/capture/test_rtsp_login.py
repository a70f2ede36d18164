"""Logins of cameras: the examples of RFC 7616 and RFC 2617, and which challenge is answered."""

import re

import pytest

from headrace.gateway.capture.rtsp_login import CameraChallenge

LOGIN = ("Mufasa", "Circle of Life")
NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
OPAQUE = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
EXAMPLE = 'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, nonce="{}", opaque="{}"'


def challenge(*headers: str) -> CameraChallenge:
    answered = CameraChallenge.strongest(headers)
    assert answered is not None
    return answered


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_examples_of_rfc_7616(algorithm: str, response: str) -> None:
    example = challenge(EXAMPLE.format(algorithm, NONCE, OPAQUE))
    example.cnonce = CNONCE
    header = example.authorization(LOGIN, "GET", "/dir/index.html")
    assert f'response="{response}"' in header
    for text in (f"algorithm={algorithm}", "qop=auth", "nc=00000001", f'opaque="{OPAQUE}"', 'username="Mufasa"'):
        assert f", {text}" in header or f" {text}" in header
    assert "nc=00000002" in example.authorization(LOGIN, "GET", "/dir/index.html")


def test_the_hidden_user_of_rfc_7616() -> None:
    header = (
        'Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, nonce="{}", opaque="{}", charset=UTF-8{}'
    )
    nonce, opaque = "5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", "HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS"
    example = challenge(header.format(nonce, opaque, ", userhash=true"))
    answer = example.authorization(("J\u00e4s\u00f8n Doe", "Secret, or not?"), "GET", "/doe.json")
    # The value in the erratum 4897 of RFC 7616.
    assert 'username="793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"' in answer
    assert answer.endswith("userhash=true")
    plain = challenge(header.format(nonce, opaque, "")).authorization(("J\u00e4s\u00f8n Doe", "x"), "GET", "/doe.json")
    assert "username*=UTF-8''J%C3%A4s%C3%B8n%20Doe" in plain


@pytest.mark.parametrize(
    ("headers", "algorithm"),
    [
        (['Digest realm="a", nonce="b"'], "MD5"),
        (['Digest realm="a", nonce="b"', 'Digest realm="a", nonce="b", algorithm=SHA-256'], "SHA-256"),
        (['Digest realm="a", nonce="b", algorithm="SHA-256-sess"', 'Digest realm="a", nonce="b"'], "SHA-256"),
        (['Basic realm="a", Digest realm="a", nonce="b, c", algorithm=md5'], "MD5"),
        (['Basic realm="a"', 'Digest realm="a", nonce="b", algorithm=SHA3'], None),
        (['Negotiate, Digest nonce = "b" , realm = "a"'], "MD5"),
        (["basic"], None),
    ],
)
def test_the_strongest_challenge_is_answered(headers: list[str], algorithm: str | None) -> None:
    assert challenge(*headers).algorithm == algorithm


@pytest.mark.parametrize("header", ["", "Digest", 'Digest realm="a"', 'Digest nonce="b", algorithm=SHA3', "Bearer x"])
def test_what_cannot_be_answered(header: str) -> None:
    assert CameraChallenge.strongest([header]) is None


def test_basic_and_odd_names() -> None:
    assert challenge('Basic realm="a"').authorization(("u", "p\u00e4:"), "X", "*") == "Basic dTpww6Q6"
    odd = challenge('Digest realm="a \\"b\\"", nonce="n"').authorization(('u"\\', "p"), "DESCRIBE", "rtsp://c/")
    assert re.search(r'username="u\\"\\\\", realm="a \\"b\\"", nonce="n"', odd)
