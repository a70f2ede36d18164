"""Query parameters that a route does not have are refused, in the whole application as it is routed."""

from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Query, Request
from fastapi.testclient import TestClient

from headrace.gateway.auth import guard
from headrace.gateway.problems import Problem, on_problem
from headrace.gateway.queries.known_parameters import KNOWN_PARAMETERS, KindName
from headrace.gateway.queries.parameters import SiteFilter
from headrace.schemas.events import Kind


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.add_exception_handler(Problem, on_problem)
    app.dependency_overrides[guard._device] = lambda: None

    def page(limit: Annotated[int, Query()] = 5) -> int:
        return limit

    from fastapi import Depends

    @app.get("/things", dependencies=[KNOWN_PARAMETERS])
    def things(
        request: Request,
        limit: Annotated[int, Depends(page)],
        kind: Annotated[list[KindName] | None, Query()] = None,
        site: SiteFilter = None,
    ) -> dict[str, Any]:
        return {"kind": kind, "site": site, "limit": limit}

    return TestClient(app)


def test_known_ones_pass_also_those_of_dependencies(client: TestClient) -> None:
    answer = client.get("/things", params={"site": "a", "limit": 3, "kind": ["frames", "ldo"]})
    assert answer.json() == {"kind": [Kind.FRAME, Kind.LDO], "site": "a", "limit": 3}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("sites", "did you mean site?"), ("knd", "did you mean kind?"), ("x", "known are: kind, limit, site")],
)
def test_an_unknown_one_is_refused_with_the_nearest_name(client: TestClient, name: str, hint: str) -> None:
    answer = client.get("/things", params={name: "a"})
    assert (answer.status_code, answer.json()["hint"]) == (422, hint)
    assert answer.json()["detail"] == f"there is no query parameter '{name}'"


def test_a_kind_that_is_none_is_named_as_before(client: TestClient) -> None:
    assert client.get("/things", params={"kind": "pictures"}).status_code == 422
