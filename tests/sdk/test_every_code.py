"""Every code that Sluice can refuse with, in Sluice's own words, is the typed exception that each SDK has for its status."""

from __future__ import annotations

from typing import Any

import pytest
from support.provider import Reply, Script, Seen
from support.sdk.dialects import SDKS
from support.sdk.errors import headers_of, status_of, typed
from support.sdk.ways import Ways

from proxy.codes import CODES
from proxy.dialect import dialect_of
from proxy.listen.errors import word
from proxy.refusal import Refusal

DIALECT = {"mistral": "openai"}  # of an SDK, where it is not its name
REFUSED = {code: known.status for code, known in CODES.items() if known.status is not None}


def refuses(status: int, code: str, dialect: str) -> Script:
    """What Sluice writes, byte for byte."""

    async def answer(seen: Seen, reply: Reply) -> None:
        told, lines, body = word(Refusal(status, code, should_retry=False), dialect_of(dialect), "slu-1")
        await reply.whole(told, body, headers=[(n.decode(), v.decode()) for n, v in lines if n != b"content-type"])

    return answer


@pytest.mark.parametrize("code", REFUSED)
@pytest.mark.parametrize("sdk", SDKS)
def test_every_code_is_an_exception_of_the_sdks_own_that_names_it(ways: Ways, sdk: str, code: str) -> None:
    one, status = SDKS[sdk], REFUSED[code]
    more: dict[str, Any] = {"request_options": {"max_retries": 0}} if sdk == "cohere" else {}  # it heeds no x-should-retry
    told = ways.straight(sdk, "sync", lambda c: one.ask(c, **more), refuses(status, code, DIALECT.get(sdk, sdk)))
    assert told.error is not None and told.attempts == 1
    assert told.error["(type)"] == typed(sdk, status)
    assert (status_of(told), headers_of(told)["x-sluice-error"]) == (status, code)
    assert code in str(told.error.get("body") or told.error.get("details"))
