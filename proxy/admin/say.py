"""How the admin listener words its answers: JSON, never cached, never sniffed. Knows no data."""

from __future__ import annotations

import orjson
from aiohttp import web

SAFE = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


class AdminProblem(Exception):
    """An answer that is a no. `message` names the cause, `fix` what to do; neither repeats input."""

    def __init__(self, status: int, code: str, message: str, fix: str) -> None:
        super().__init__(code)
        self.status, self.code, self.message, self.fix = status, code, message, fix


def json_reply(status: int, doc: object) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(doc), content_type="application/json", headers=SAFE)


def text_reply(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n", headers=SAFE)


def problem_reply(problem: AdminProblem) -> web.Response:
    reply = json_reply(problem.status, {"error": {"code": problem.code, "message": problem.message, "fix": problem.fix}})
    if problem.status == 401:
        reply.headers["www-authenticate"] = 'Bearer realm="sluice admin"'
    return reply
