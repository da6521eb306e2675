"""The ledger over HTTP: rows, sums, the dearest calls, what failures cost, and the evidence of one request. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson
from aiohttp import web

from proxy.admin.asked import Grouping, read_rows_asked, read_span_asked
from proxy.admin.evidence import evidence
from proxy.admin.say import SAFE, AdminProblem, json_reply
from proxy.record import rows as show

ROWS_A_WRITE = 500
REQUEST_ID = "[A-Za-z0-9._:-]{1,128}"  # design.md section 9
Rows = Sequence[Mapping[str, Any]]


class Ledger(Protocol):
    """What is asked of the state. Instants are ns since the epoch; None: open."""

    async def rows(self, limit: int, since_ns: int | None, caller: str | None) -> Rows: ...
    async def attempts(self, request_id: str) -> Rows: ...
    async def usage(self, by: Grouping, since_ns: int | None, until_ns: int | None) -> Rows: ...
    async def dearest(self, limit: int, since_ns: int | None, until_ns: int | None) -> Rows: ...
    async def failed(self, since_ns: int | None, until_ns: int | None) -> Rows: ...
    async def billed(self, provider: str | None, since_ns: int | None, until_ns: int | None) -> Rows: ...


class LedgerPages:
    """`shown` is how a caller's name stands in the rows (`record.redact`)."""

    def __init__(self, ledger: Ledger, shown: Callable[[str], str]) -> None:
        self._ledger, self._shown = ledger, shown

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/admin/ledger", self._rows),
            web.get(f"/admin/ledger/{{id:{REQUEST_ID}}}", self._evidence),
            web.get("/admin/usage", self._usage),
            web.get("/admin/usage/dearest", self._dearest),
            web.get("/admin/usage/failed", self._failed),
            web.get("/admin/usage/billed", self._billed),
        ]

    async def _rows(self, request: web.Request) -> web.StreamResponse:
        asked = read_rows_asked(request.query)
        caller = None if asked.caller is None else self._shown(asked.caller)
        rows = await self._ledger.rows(asked.limit, asked.since_ns, caller)
        reply = web.StreamResponse(headers=_csv_head("ledger") if asked.is_csv else {**SAFE, "content-type": "application/json"})
        await reply.prepare(request)
        await reply.write(show.csv_text(show.LEDGER, []).encode() if asked.is_csv else b'{"rows":[')
        for start in range(0, len(rows), ROWS_A_WRITE):  # the loop is shared with the data path: never many rows at once
            some = [show.shown_row(row) for row in rows[start : start + ROWS_A_WRITE]]
            if asked.is_csv:
                await reply.write(show.csv_text(show.LEDGER, some, has_header=False).encode())
            else:
                await reply.write(b"," * (start > 0) + orjson.dumps(some)[1:-1])
        await reply.write_eof(b"" if asked.is_csv else b"]}")
        return reply

    async def _evidence(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        rows = await self._ledger.attempts(id)
        if not rows:
            raise AdminProblem(
                404,
                "unknown_request",
                "the ledger has no attempt of a request with this id",
                "give the x-sluice-request-id of a reply; rows older than the policy's `ledger.keep` are gone",
            )
        return json_reply(200, evidence(id, rows))

    async def _usage(self, request: web.Request) -> web.Response:
        asked = read_span_asked(request.query, "by")
        rows = await self._ledger.usage(asked.by, asked.since_ns, asked.until_ns)
        return _rows_reply(asked.is_csv, "usage", (asked.by, *show.USAGE), rows)

    async def _dearest(self, request: web.Request) -> web.Response:
        asked = read_span_asked(request.query, "limit")
        rows = await self._ledger.dearest(asked.limit, asked.since_ns, asked.until_ns)
        return _rows_reply(asked.is_csv, "dearest", show.DEAREST, [show.shown_row(row) for row in rows])

    async def _failed(self, request: web.Request) -> web.Response:
        asked = read_span_asked(request.query)
        return _rows_reply(asked.is_csv, "failed", show.FAILED, await self._ledger.failed(asked.since_ns, asked.until_ns))

    async def _billed(self, request: web.Request) -> web.Response:
        asked = read_span_asked(request.query, "provider")
        rows = await self._ledger.billed(asked.provider, asked.since_ns, asked.until_ns)
        return _rows_reply(asked.is_csv, "billed", show.BILLED, rows)


def _rows_reply(is_csv: bool, name: str, columns: Sequence[str], rows: Rows) -> web.Response:
    if is_csv:
        return web.Response(body=show.csv_text(columns, rows).encode(), headers=_csv_head(name))
    return json_reply(200, {"rows": [dict(row) for row in rows]})


def _csv_head(name: str) -> dict[str, str]:
    return {**SAFE, "content-type": "text/csv; charset=utf-8; header=present", "content-disposition": f'attachment; filename="{name}.csv"'}
