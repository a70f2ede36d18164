"""What the OpenAPI document says beyond what the calls say themselves."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from headrace.gateway.problems import ProblemBody

_SCHEMES = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A key of `headrace keys add`."},
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key, or a token."},
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "The key as the password: `http://headrace:KEY@host` for clients that only know an address.",
    },
}


def describe(app: FastAPI) -> None:
    """Make the application's document whole: how callers show who they are, and what a problem looks like."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            components = document.setdefault("components", {})
            components.setdefault("schemas", {})["ProblemBody"] = ProblemBody.model_json_schema()
            components["securitySchemes"] = _SCHEMES
            document["security"] = [{name: []} for name in _SCHEMES]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
