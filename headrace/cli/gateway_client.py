"""Calls of the gateway's HTTP API for commands: of the stack on this machine, or of the address that is given."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.status import stack_not_running
from headrace.runtime.errors import Exit, HeadraceError, unreachable

if TYPE_CHECKING:
    from urllib.error import HTTPError

_ANSWER_S_MAX = 30.0

GatewayUrl = Annotated[
    str | None, typer.Option("--gateway", help="URL of a gateway. [default: that of the stack]", show_default=False)
]
KeyFile = Annotated[
    typer.FileText | None,
    typer.Option("--key-file", help="File with an API key for --gateway; '-' is standard input.", show_default=False),
]


@dataclass(frozen=True, slots=True)
class GatewayClient:
    """A gateway and a key for it."""

    url: str
    key: str = field(repr=False)

    @classmethod
    def of(cls, url: str | None, key_file: typer.FileText | None) -> "GatewayClient":
        """Return the client for an address and the key in a file, or for the stack in the state directory.

        Raises:
            HeadraceError: no stack runs here, or a key is missing.
        """
        if url is not None:
            key = key_file.read().strip() if key_file is not None else ""
            if not key:
                raise HeadraceError(
                    "key_missing", "a gateway needs an API key", hint="add --key-file FILE", exit_code=Exit.USAGE
                )
            return cls(url.rstrip("/"), key)
        from headrace.native import status
        from headrace.runtime.settings import load_settings

        current = status(load_settings().state_dir)
        if not current.running or current.info is None or not current.info.gateway_url:
            raise stack_not_running(current.state_dir)
        return cls(current.info.gateway_url, current.info.admin_key or "")

    def call(self, method: str, path: str, body: dict[str, Any] | None = None, **query: str | None) -> Any:
        """Return the JSON of an answer, None where it has no body.

        Raises:
            HeadraceError: the gateway does not answer, or refuses the request.
        """
        import json
        from urllib.error import HTTPError
        from urllib.parse import urlencode
        from urllib.request import Request, urlopen

        given = {name: value for name, value in query.items() if value is not None}
        address = f"{self.url}{path}" + (f"?{urlencode(given)}" if given else "")
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-API-Key": self.key, "Content-Type": "application/json"}
        if not address.startswith(("http://", "https://")):
            raise HeadraceError("url_invalid", "a gateway's URL is http:// or https://", exit_code=Exit.USAGE)
        request = Request(address, data, headers, method=method)  # noqa: S310 - the scheme was checked
        try:
            with urlopen(request, timeout=_ANSWER_S_MAX) as answer:  # noqa: S310
                content = answer.read()
        except HTTPError as error:
            with error:
                raise _refused(error) from None
        except OSError as error:
            why = str(getattr(error, "reason", None) or error)
            raise unreachable("gateway", self.url, why, "check `headrace status`, or --gateway") from None
        return json.loads(content) if content else None


def _refused(error: "HTTPError") -> HeadraceError:
    import json

    try:
        problem = json.loads(error.read())
        return HeadraceError(str(problem["code"]), str(problem["detail"]), hint=str(problem.get("hint") or ""))
    except (ValueError, KeyError, TypeError):
        return HeadraceError("gateway_refused", f"the gateway answered {error.code}", where=error.url or "")
