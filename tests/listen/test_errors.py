import ast
import json
from pathlib import Path

import pytest

import proxy
from proxy.codes import CODES
from proxy.dialect import DIALECTS, dialect_of
from proxy.listen.errors import word
from proxy.refusal import Refusal


class Plain:
    def error_body(self, status, code, message, request_id):
        return f"{status} {code} {message} {request_id}".encode()


def worded(*args, **kw):
    status, lines, body = word(Refusal(*args, **kw), Plain(), "req-1")
    return status, dict(lines), body


def test_a_refusal_says_status_code_ids_and_message():
    status, lines, body = worded(402, "budget_exhausted", "limit team: nothing left", limit="team finance")
    assert (status, body) == (402, b"402 budget_exhausted limit team: nothing left req-1")
    assert lines[b"x-sluice-error"] == b"budget_exhausted"
    assert lines[b"x-sluice-request-id"] == lines[b"x-request-id"] == lines[b"request-id"] == b"req-1"
    assert lines[b"content-type"] == b"application/json"
    assert lines[b"x-sluice-limit"] == b"team finance"
    assert lines[b"cache-control"] == b"no-store"
    assert not {b"retry-after", b"x-should-retry", b"www-authenticate"} & set(lines)


def test_a_refusal_without_words_takes_those_of_the_table():
    assert CODES["draining"].cause.encode() in worded(503, "draining")[2]


@pytest.mark.parametrize(
    ("wait_s", "whole", "ms"),
    [(0, b"1", b"1"), (0.05, b"1", b"50"), (1.0, b"1", b"1000"), (1.001, b"2", b"1001"), (3600, b"60", b"60000"), (-5, b"1", b"1")],
)
def test_a_wait_is_told_in_whole_seconds_up_to_a_minute_and_in_milliseconds(wait_s, whole, ms):
    lines = worded(429, "rate_limited", retry_after=wait_s)[1]
    assert (lines[b"retry-after"], lines[b"retry-after-ms"]) == (whole, ms)


@pytest.mark.parametrize(("advice", "said"), [(False, b"false"), (True, b"true")])
def test_advice_to_retry_is_passed_on(advice, said):
    assert worded(429, "rate_limited", should_retry=advice)[1][b"x-should-retry"] == said


def test_a_401_says_how_to_authenticate():
    assert worded(401, "missing_credentials")[1][b"www-authenticate"].startswith(b"Bearer")


def test_headers_of_a_refusal_cannot_split_a_line():
    assert worded(405, "method_not_allowed", headers={"Allow": "GET\r\nX: 1"})[1][b"allow"] == b"GET??X: 1"


@pytest.mark.parametrize("name", sorted(DIALECTS))
@pytest.mark.parametrize("code", sorted(code for code, known in CODES.items() if known.status))
def test_every_code_is_worded_in_every_dialect_as_json_that_names_it(name, code):
    body = word(Refusal(CODES[code].status, code), dialect_of(name), "req-1")[2]
    json.loads(body)
    assert code in body.decode()


def codes_raised():
    makers = {"Refusal": 1, "UpstreamFailed": 0, "UpstreamCut": 0}
    for file in Path(proxy.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in makers:
                place = makers[node.func.id]
                if len(node.args) > place and isinstance(node.args[place], ast.Constant):
                    yield (
                        file.name,
                        node.args[place].value,
                        node.args[0].value if place and isinstance(node.args[0], ast.Constant) else None,
                    )


def test_every_code_raised_anywhere_is_in_the_table_with_its_status():
    raised = set(codes_raised())
    assert len(raised) > 20
    assert [(file, code) for file, code, _ in raised if code not in CODES] == []
    other = {("budget_exhausted", 429), ("exceeds_limit", 402), ("exceeds_limit", 429)}
    assert [
        (file, code, status) for file, code, status in raised if status and status != CODES[code].status and (code, status) not in other
    ] == []


def test_every_code_of_the_table_has_a_cause_and_a_fix():
    assert all(known.cause and known.fix for known in CODES.values())
