"""Words a refusal as a whole HTTP reply in the caller's dialect. Never echoes the request, and decides nothing."""

from __future__ import annotations

import os
from math import ceil
from typing import Protocol

from proxy.codes import CODES
from proxy.exchange import RawHeaders
from proxy.listen.reply import SECURITY, field_value
from proxy.refusal import Refusal

MAX_WAIT_S = 60  # no SDK is told to sleep longer (ecosystem.md section 12)


class Wording(Protocol):
    """The one thing needed of a dialect."""

    def error_body(self, status: int, code: str, message: str, request_id: str) -> bytes: ...


def word(no: Refusal, dialect: Wording, request_id: str) -> tuple[int, RawHeaders, bytes]:
    """Status, header lines without framing, and body.

    `retry-after` is whole seconds from 1 to 60 and `retry-after-ms` the same wait in milliseconds, both only where waiting helps.
    """
    lines: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"x-sluice-error", field_value(no.code)),
        *((name, field_value(request_id)) for name in (b"x-sluice-request-id", b"x-request-id", b"request-id")),
        *SECURITY,
    ]
    if no.retry_after is not None:
        wait_ms = min(max(ceil(no.retry_after * 1000), 1), MAX_WAIT_S * 1000)
        lines += [(b"retry-after", b"%d" % ceil(wait_ms / 1000)), (b"retry-after-ms", b"%d" % wait_ms)]
    if no.should_retry is not None:
        lines.append((b"x-should-retry", b"true" if no.should_retry else b"false"))
    if no.limit is not None:
        lines.append((b"x-sluice-limit", field_value(no.limit)))
    if no.status == 401:
        lines.append((b"www-authenticate", b'Bearer realm="sluice"'))
    lines += [(field_value(name.lower()), field_value(value)) for name, value in no.headers.items()]
    return no.status, tuple(lines), dialect.error_body(no.status, no.code, no.message or _explained(no.code), request_id)


def _explained(code: str) -> str:
    known = CODES.get(code)
    return f"{known.cause}; {known.fix}" if known else ""


def place_of(error: BaseException) -> str:
    """Where a defect of ours was raised."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f"{os.path.basename(frame.tb_frame.f_code.co_filename)}:{frame.tb_lineno}" if frame else "?"
