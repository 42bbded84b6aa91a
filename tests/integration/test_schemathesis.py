"""The OpenAPI document against the running server: schemathesis makes the requests and judges the answers.

`SCHEMATHESIS_EXAMPLES=200 pytest tests/integration/test_schemathesis.py` looks longer.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from tests.integration.system import ROOT, System, running

# Each operation gets so many valid requests, and so many invalid ones.
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "12"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One where accounts are open and nothing is limited by rate: the requests come from one name."""
    env = {"HUBBUB_ACCOUNTS": "open", "HUBBUB_LIMIT_RATE": "0"}
    with running(tmp_path_factory.mktemp("schemathesis"), env=env) as system:
        yield system


@pytest.fixture(scope="module")
def description(server: System) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/api/openapi.json")


@pytest.fixture(scope="module")
def token(server: System) -> str:
    return server.token("fuzz")


DOCUMENT = json.loads((ROOT / "docs/openapi.json").read_text("utf-8"))
OPERATIONS = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_server_is_as_described(
    server: System, description: BaseSchema, token: str, method: str, path: str, mode: GenerationMode
) -> None:
    operation = description[path][method]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="CI" in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def examine(case: "Case[Any]") -> None:
        case.call_and_validate(
            base_url=server.url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=20,
            excluded_checks=[
                # It takes a scheme's parameter away and leaves our header; what it asks is asked below.
                ignored_auth,
                # A schema cannot say all of it: names in NFKC, no U+0000, `before` or `after` but not both, and
                # that the new password is not the name. Such requests are refused with a described 400.
                positive_data_acceptance,
            ],
        )

    try:
        examine()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "an operation without a single valid request"


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_nothing_but_what_is_public_works_without_credentials(server: System, method: str, path: str) -> None:
    public = DOCUMENT["paths"][path][method]["security"] == []
    address = path.replace("{conversation}", "lobby")
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic YTpi"}):
        answer = server.get(address, headers) if method == "get" else server.post(address, {}, headers)
        assert (answer.status == 401) != public, (headers, answer.status)


def test_the_document_in_the_repository_is_the_one_that_is_served(server: System) -> None:
    assert server.get("/api/openapi.json").json == DOCUMENT
