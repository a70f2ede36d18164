"""Credentials neither leave with a request nor appear in messages and records."""

from pathlib import Path

import pytest

from headrace.batch.fetch.errors import (
    UrlRefusedError,
)
from headrace.batch.fetch.url import parse_url, redact_url_text
from tests.batch.fetch.web_servers import fetch, picture, plain, routes, serving

pytestmark = pytest.mark.usefixtures("connected")
CANARY = "canary-pass-7"


# 51
async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(plain(picture(2))) as proxy, serving(plain(picture(1))) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await fetch(server.url())).body == picture(1)
        assert proxy.connections == 0


# 52
async def test_no_login_and_no_cookie_goes_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"default login somebody password {CANARY}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    cookie = f"Set-Cookie: session={CANARY}; Domain=site.test"
    known = {"/": plain(b"", "Location: /next", cookie, status="302 Found"), "/next": plain(picture(1), cookie)}
    async with serving(routes(known)) as server:
        await fetch(server.url())
        assert server.paths == ["/", "/next"]
        output = b"".join(server.heads).lower()
        assert CANARY.encode() not in output
        assert not any(name in output for name in (b"cookie", b"authorization", b"referer"))


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{CANARY}@site.test/a",
        f"http://user:{CANARY}/x@site.test/",
        f"http://u:{CANARY}#y@site.test/",
        f"ftp://user:{CANARY}@site.test/",
        f"http://user:{CANARY}\\@site.test/",
        f"http://site.test:x/?token={CANARY}",
    ],
)
async def test_a_login_in_a_url_is_in_no_message(url: str, connected: list[str]) -> None:
    with pytest.raises(UrlRefusedError) as caught:
        parse_url(url)
    assert CANARY not in f"{caught.value!s}{caught.value!r}{caught.value.where}{redact_url_text(url)}"


def test_what_lets_somebody_in_is_hidden_from_a_query() -> None:
    url = parse_url(f"https://site.test/a.jpg?width=7&X-Amz-Signature={CANARY}&%74oken={CANARY};key={CANARY}&b")
    assert url.redacted == "https://site.test/a.jpg?width=7&X-Amz-Signature=***&%74oken=***;key=***&b"
    assert CANARY not in repr(url)
