"""Refuses query parameters that a route does not have: a misspelt filter would list everything."""

from difflib import get_close_matches
from typing import Annotated

from fastapi import Depends, Request, params
from fastapi.dependencies.utils import get_flat_params
from pydantic import BeforeValidator

from headrace.gateway.auth.guard import Device, Operator
from headrace.gateway.problems import Problem, ProblemCode
from headrace.schemas.events import Kind, singular


def _require_known(request: Request) -> None:
    fields = get_flat_params(request.scope["route"].dependant)
    names = sorted(field.alias for field in fields if isinstance(field.field_info, params.Query))
    unknown = next((name for name in request.query_params if name not in names), None)
    if unknown is not None:
        near = get_close_matches(unknown, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(names) or 'none'}"
        # The name is not repeated whole: it may be a secret that was put into the wrong place.
        raise Problem(422, ProblemCode.INVALID, f"there is no query parameter {unknown[:40]!r}", hint=hint)


def _for_device(request: Request, _principal: Device) -> None:
    _require_known(request)


def _for_operator(request: Request, _principal: Operator) -> None:
    _require_known(request)


# They depend on the principal as the route does, because who is not authenticated learns nothing, and each kind of
# principal is authenticated once.
KNOWN_PARAMETERS = Depends(_for_device)
"""For a route of a `Device`: a query parameter that the route does not have is 422, with the nearest name."""
OPERATOR_PARAMETERS = Depends(_for_operator)
"""The same for a route of an `Operator`."""


KindName = Annotated[Kind, BeforeValidator(singular)]
"""A kind, singular or plural."""
