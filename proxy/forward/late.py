"""Which answers under way are late: looked at a few times a second. A client that reads slowly is not the provider's fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.forward.connection import NEVER, Connection
from proxy.refusal import UpstreamCut, UpstreamFailed

if TYPE_CHECKING:
    from proxy.forward.answer import Reply


def check(connection: Connection, now: float) -> None:
    """Ends the answer that is due here, where it is late."""
    parser = connection.parser
    reply = parser.told
    if reply is None or reply.is_idle:
        return
    if now >= reply.deadline:
        reply.broken(
            UpstreamCut("upstream_timeout", "the call's total time is over")
            if parser.has_head
            else UpstreamFailed("upstream_timeout", "timeout", sent=True, status=504, detail="the call's total time is over")
        )
    elif not parser.has_head:
        _check_head(connection, reply, now)
    elif connection.is_paused or parser.has_body or reply.since == NEVER:
        parser.has_body, reply.since = False, now
    elif now - reply.since >= reply.timeouts.idle:
        reply.broken(UpstreamCut("upstream_idle_timeout", f"nothing came for {reply.timeouts.idle:g} s"))


def _check_head(connection: Connection, reply: Reply, now: float) -> None:
    before, connection.pending = connection.pending, connection.unsent()
    if connection.pending != before and reply.since != NEVER:  # a large request is still going out
        reply.since = now
    elif now - reply.since >= reply.timeouts.first_byte:
        detail = f"no complete head within {reply.timeouts.first_byte:g} s"
        reply.broken(UpstreamFailed("upstream_first_byte_timeout", "first_byte_timeout", sent=True, status=504, detail=detail))
