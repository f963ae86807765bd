"""Requests made up from the server's own description, fit and unfit: none fails it, all answers are as described."""

from __future__ import annotations

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from helpers_serve import first, started, write_library

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
QUIETLY = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "phases": [Phase.generate],
    "suppress_health_check": list(HealthCheck),
}


@pytest.mark.parametrize("num_requests", [200, pytest.param(2000, marks=pytest.mark.long)])
def test_requests_of_all_kinds(tmp_path, num_requests):
    """Catches a 5xx, an undocumented status or body, and folders of this machine in an answer."""
    place = write_library(tmp_path / "described library")
    with started(place, "--rate", "0") as (_, client), requests.Session() as session:
        schema = schemathesis.openapi.from_url(f"{client.base_url}api/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        hit = first(client)
        known = {name: hit[name] for name in ("video_id", "segment_id")}
        statuses: list[int] = []

        for operation in operations:
            cases = st.one_of(operation.as_strategy(), operation.as_strategy(GenerationMode.NEGATIVE))

            @settings(max_examples=int(1.5 * num_requests / len(operations)), **QUIETLY)
            @given(case=cases, of_the_library=st.booleans())
            def ask(case, of_the_library):
                if of_the_library:
                    case.path_parameters |= {name: known[name] for name in case.path_parameters if name in known}
                answer = case.call(session=session, timeout=120)  # the first upload starts a process
                case.validate_response(answer, checks=CHECKS)
                statuses.append(answer.status_code)
                text = answer.content.replace(str(place / "videos").encode(), b"")
                assert not any(leak in text for leak in (b"Traceback", b"site-packages", str(place).encode()))

            ask()
        assert client.get("/api/health").status_code == 200
    assert len(statuses) >= num_requests  # some routes have but one request to be made
    assert {200, 404, 422} <= set(statuses)
