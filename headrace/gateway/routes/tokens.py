"""`POST /oauth/token`: exchange an API key for a token (OAuth 2.0 client credentials, RFC 6749 section 4.4)."""

import base64
import binascii
import time
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from headrace.gateway.auth import api_keys
from headrace.gateway.auth.guard import audit_refusal, limit_requests
from headrace.gateway.auth.tokens import TOKEN_S, issue
from headrace.gateway.deps import AccessDep, SettingsDep
from headrace.gateway.problems import Problem, problem_responses
from headrace.gateway.uploads.upload_form import urlencoded_form

router = APIRouter(tags=["access"])


class Token(BaseModel):
    """An access token (RFC 6749, section 5.1)."""

    access_token: str
    token_type: str = Field("bearer", examples=["bearer"])
    expires_in: int = Field(description="Validity in seconds.", examples=[TOKEN_S])


class TokenError(BaseModel):
    """An error (RFC 6749, section 5.2)."""

    error: str = Field(examples=["invalid_client"])
    error_description: str


_FORM = {
    "type": "object",
    "required": ["grant_type"],
    "properties": {
        "grant_type": {"type": "string", "enum": ["client_credentials"]},
        "client_id": {"type": "string", "description": "The id of the API key."},
        "client_secret": {"type": "string", "description": "The API key, or its secret."},
    },
}


@router.post(
    "/oauth/token",
    response_model=Token,
    responses={
        **problem_responses(),
        400: {"model": TokenError, "description": "Invalid request."},
        401: {"model": TokenError, "description": "Invalid API key."},
    },
    openapi_extra={
        "security": [],
        "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": _FORM}}},
    },
)
async def token(request: Request, access: AccessDep, settings: SettingsDep) -> JSONResponse:
    """Exchange an API key for a token, valid for 15 minutes or until the key is revoked."""
    await limit_requests(request, None)
    try:
        fields = await urlencoded_form(request)
    except Problem as problem:
        if problem.status_code in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}:
            raise  # as for every body; RFC 6749 has no code for them
        return _error(400, "invalid_request", str(problem.detail))
    secret = settings.gateway_token_secret.get_secret_value()
    if "grant_type" not in fields:
        return _error(400, "invalid_request", "grant_type is required")
    if fields["grant_type"] != "client_credentials":
        return _error(400, "unsupported_grant_type", "grant_type must be client_credentials")
    if not secret:
        return _error(
            400, "unauthorized_client", "the gateway issues no tokens: HEADRACE_GATEWAY_TOKEN_SECRET is not set"
        )
    client_id, client_secret = _client(request, fields)
    parsed = api_keys.parse(client_secret) or api_keys.parse(f"hr_{client_id}_{client_secret}") or ("", "")
    principal = await api_keys.authenticate(access, *parsed) if client_id and parsed[0] == client_id else None
    if principal is None:
        audit_refusal(request, "invalid_client", None)
        return _error(401, "invalid_client", "the API key is invalid, revoked or expired")
    issued = issue(principal, secret=secret, audience=settings.gateway_jwt_audience, now_s=time.time())
    return _answer(200, Token(access_token=issued, token_type="bearer", expires_in=TOKEN_S))  # noqa: S106


def _client(request: Request, fields: dict[str, str]) -> tuple[str, str]:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return fields.get("client_id", ""), fields.get("client_secret", "")
    try:
        client_id, _, secret = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return client_id, secret


def _error(status: int, error: str, detail: str) -> JSONResponse:
    headers = {"WWW-Authenticate": 'Basic realm="headrace"'} if status == 401 else {}
    return _answer(status, TokenError(error=error, error_description=detail), headers)


def _answer(status: int, body: BaseModel, headers: Mapping[str, str] = MappingProxyType({})) -> JSONResponse:
    return JSONResponse(body.model_dump(), status, headers={"Cache-Control": "no-store", **headers})
