"""From an answer to the client: lines of taps, headers, the point of no return, and the settle after the last byte. Retries nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from proxy.at_limit import MoneyEnded, Purse, purse
from proxy.charging import defer, learn_and_reckon, reckon, settle_job
from proxy.dialect.jobs import RESULTS
from proxy.dialect.wire import JOBS
from proxy.exchange import RawHeaders, Story, Usage
from proxy.forward.failure import OK, of_error_event
from proxy.forward.redirect import followed_back, is_redirect
from proxy.forward.reflection import KeyReflected, without_key
from proxy.lines import NOWHERE, Sent, last_words, way_of
from proxy.listed import listed
from proxy.listen.headers import answer_headers
from proxy.listen.reply import rare_lines, said_in, said_of, usual_lines
from proxy.meter.tap import Watch
from proxy.meter.whole import stated
from proxy.ports import Answer, Line, Sink
from proxy.refusal import ClientGone, Refusal, UpstreamCut
from proxy.rooms import Ready, Rooms
from proxy.stream.coding import without_body_fields
from proxy.stream.tail import gap
from proxy.under_way import REVOKED
from proxy.watching import Watching, watch_of, watched, watching


class Relaying:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms, self._monotonic = rooms, rooms.clock.monotonic

    def relay(self, sent: Sent, ready: Ready, sink: Sink, story: Story) -> Coroutine[None, None, None] | None:
        """Everything of this answer, then its settle; given back is what has to be awaited of that. Raises Refusal only before the point
        of no return."""
        answer, key, try_ = sent.answer, sent.form.key, sent.try_
        lines, head, began = answer.lines, answer.said, try_.first_byte
        if (
            ready.vault or sent.asked_usage or ready.plan.stopping or answer.status != 200 or lines is None
            or not (head.is_plain and ready.common.op.is_one_talk and sent.stream is None)  # as `is_plain`
            or sent.turn.tally.is_over or began is None or (key and key in lines) or (body := answer.at_once(key)) is None
        ):  # fmt: skip
            if ready.upload is not None and ready.plan.on_client_gone == "finish":  # else it was told in the beginning
                sink.finish_anyway = True
            return self._as_it_comes(sent, ready, sink, story, self._monotonic())
        # it is here, and nothing changes it: head and body leave together
        ok = None
        try:
            known: Any = head.kept.get(said_in)
            ours = self._ours(sent, ready, story, said_of(answer) if known is None else known, True, lines)
            if story.found:
                ours += rare_lines(None, story.found, None)
            is_gone = sink.whole(answer.reason, answer.length, ours, body)  # NO RETURN
            story.status, ok = 200, True
            if is_gone:  # and finished anyway
                story.end = try_.end = "client_gone"
        except BaseException as left:
            if not sink.is_started:
                body = b""  # none of it was looked at
            try_.end = _end_of(left, sink, story)
            raise
        finally:
            self._over(sent, ready, story, None, body, ok, began)
        return None

    async def _as_it_comes(self, sent: Sent, ready: Ready, sink: Sink, story: Story, began: float) -> None:
        answer, plan, dialect = sent.answer, ready.plan, sent.form.dialect
        watch = watching(sent, ready)
        line: Line = NOWHERE
        form, ok = "", None
        try:
            paid = (
                purse(self._rooms.store, ready, sent.try_, sent.quote, watch, dialect)
                if plan.stopping and answer.status == 200 and isinstance(watch, Watch)
                else None
            )
            body = await listed(ready, dialect, answer) if ready.common.op.name == "models" and answer.status == 200 else None
            line, form, length, is_reworded = way_of(sent, ready, watch, paid, body)
            self._begin(sent, ready, sink, story, length, is_reworded, None if body is None else watch)
            if body is None:
                await _relayed(sent, sink, line, watch, paid)
                if watch.is_stream or is_reworded:
                    _check_whole(answer, watch, is_reworded)
            is_gone = sink.finish(body)
            ok = True
            if is_gone:  # and finished anyway
                story.end = sent.try_.end = "client_gone"
        except UpstreamCut as cut:
            ok = False
            self._broke_off(cut, sent, sink)
            sink.abort(last_words(dialect, ready, sink.last, form, cut.code, _CUT))
            raise
        except MoneyEnded as ended:
            self._stop(ended, sent, sink, story, line, form)
        except BaseException as left:
            sent.try_.end = _end_of(left, sink, story)
            if isinstance(left, asyncio.CancelledError) and not sink.is_gone and sink.is_started:
                sink.push(line.end())
                why = f"stopped_{story.stopping}", _STOPPED[story.stopping]
                sink.abort(last_words(dialect, ready, sink.last, form, *why))
            raise
        finally:
            self._over(sent, ready, story, watch, b"", ok, began)

    def _stop(self, ended: MoneyEnded, sent: Sent, sink: Sink, story: Story, line: Line, form: str) -> None:
        """The money has ended: the answer is brought to a good end, as if it had reached its largest length."""
        story.end = sent.try_.end = "stopped:money"
        story.limit = ended.limit
        self._rooms.log.event("info", "stream stopped", code="stopped_money", limit=story.limit, request_id=story.call.id)
        sink.push(line.end())
        before = gap(sink.last, form) if form else None
        if before is None:
            sink.abort(b"")
            return
        sink.push(before + ended.purse.words())
        sink.finish()

    def _broke_off(self, cut: UpstreamCut, sent: Sent, sink: Sink) -> None:
        sent.try_.end, sent.try_.error = "upstream_cut", cut.code
        if isinstance(cut, KeyReflected):
            self._rooms.log.event("error", "key reflected by the provider", provider=sent.target.provider.name)
        if not sink.is_started:
            status, code = (502, "upstream_protocol") if cut.code == "upstream_cut" else (504, cut.code)
            sent.try_.end = f"refused:{code}"
            raise Refusal(status, code, "the provider's answer ended in its middle") from cut

    def drop(self, sent: Sent, ready: Ready, story: Story) -> None:
        """An answer that will not be relayed: the attempt failed, and is over since then."""
        try_ = sent.try_
        ended = try_.ended
        self.abandon(sent, ready)
        try_.end, try_.error, try_.ended = "done", sent.outcome.kind, ended
        self._rooms.books.settle(story, try_)

    def abandon(self, sent: Sent, ready: Ready) -> None:
        """An answer nobody reads. An error costs nothing; a good one that was left, or broke, has read its input at least."""
        sent.answer.close()
        is_good = sent.answer.status < 300 and (sent.outcome is OK or sent.outcome.is_once)
        usage = watch_of(sent, ready).usage() if is_good else Usage()
        common, try_ = ready.common, sent.try_
        try_.ended = self._monotonic()
        reckon(self._rooms, common.generation.prices, try_, sent.quote, usage, common.op)

    # --- inside ---

    def _begin(
        self, sent: Sent, ready: Ready, sink: Sink, story: Story, length: int | None, is_reworded: bool, seen: Watching | None
    ) -> None:
        """The head: the provider's lines, but for what we say better, and ours. `seen`: has seen all of the answer already."""
        answer = sent.answer
        lines, head, status = answer.lines, answer.said, answer.status
        is_ok, key = sent.outcome is OK, sent.form.key
        headers: RawHeaders = ()
        should_retry = None
        if (
            lines is not None and is_ok and not (is_reworded or head.leads or (head.shares and sink.cors))
            and not (key and key in lines)
        ):  # they travel as they are  # fmt: skip
            said = said_of(answer)
        else:
            lines, headers = None, _headers(sent, ready, is_reworded)
            if not is_ok and (sent.try_.number > 1 or sent.outcome.credential_fault):
                should_retry, headers = False, tuple([line for line in headers if line[0].lower() != b"x-should-retry"])
            said = said_in(headers)
        ours = self._ours(sent, ready, story, said, status < 400, lines)
        if seen is not None or story.found or should_retry is not None:
            cost = None if seen is None else ready.common.generation.prices.priced(sent.quote, seen.usage()).cost_nanousd
            ours += rare_lines(cost, story.found, should_retry)
        sink.start(status, answer.reason, headers, length, ours)  # NO RETURN
        story.status = status
        if is_ok and sent.turn.state == "half_open":
            sent.turn.saw(True, self._monotonic())  # a probe is decided by its first content, not by a stream's end

    def _ours(self, sent: Sent, ready: Ready, story: Story, said: int, may_reset: bool, lines: bytes | None) -> bytes:
        """The provider's lines, where they travel as they are, and ours behind them; see `usual_lines`."""
        rooms, monotonic = self._rooms, self._monotonic
        plan, call, try_ = ready.plan, ready.call, sent.try_
        model, standings = try_.model, rooms.store.standings(plan.claims)
        now = monotonic()
        rooms.metrics.limits(standings, now)
        overhead_s = now - call.began - story.upstream_s
        return usual_lines(
            call.id.encode(),  # well-formed, or ours
            said,
            standings,
            may_reset,
            overhead_s * 1e3 if overhead_s > 0.0 else 0.0,
            try_.provider,
            try_.number,
            model if model != plan.model else None,
            try_.held_nanousd,
            lines,
        )

    def _over(self, sent: Sent, ready: Ready, story: Story, watch: Watching | None, body: bytes, ok: bool | None, began: float) -> None:
        """`watch`: has seen the answer; None: `body` is all of it. `ok`, as the breaker hears it: True, answered whole; None, nobody's
        fault."""
        rooms, common, try_ = self._rooms, ready.common, sent.try_
        op, monotonic, job = common.op, self._monotonic, None
        sent.answer.close()
        now = try_.ended = began if watch is None else monotonic()  # what is told without a watch came whole with its first byte
        story.upstream_s += now - began
        if watch is None:
            usage, error = stated(sent.form.dialect, op, body) or watched(sent, ready, body)  # `told_of`, but for the call
        else:
            usage, error = watch.told()
            job = watch.job(ready.call.route.path) if op.name in JOBS else None
        if error is not None and ok and sent.outcome is OK:
            ok = _is_healthy(error)
        sent.turn.saw(ok, now)
        if job is not None and op.is_billed and not job.is_over:
            return defer(rooms, story, try_, sent.quote, job)
        learn_and_reckon(rooms, common.generation.prices, try_, sent.quote, usage, op, ready.asked)
        rooms.books.settle(story, try_)
        # of results, no line tells that it is the last
        if job is not None and job.is_over and not op.is_billed and (op.variant != RESULTS or try_.end == "done"):
            settle_job(rooms, common.generation.prices, ready.plan.pricing, sent.target.provider, job)
        if try_.cost_nanousd > sent.held_nanousd and common.generation.rules.alerts is not None:  # no hold has shown so much
            stopped = story.limit if try_.end == "stopped:money" else None
            rooms.alerts.saw(ready.plan.claims, rooms.store.standings(ready.plan.claims), stopped)


async def _relayed(sent: Sent, sink: Sink, line: Line, watch: Watching, paid: Purse | None) -> None:
    """All of the body, by way of its line."""
    try:
        await sent.answer.relay(sink if paid is None else paid.before(sink), line)
    except UpstreamCut:
        sink.push(line.end())
        raise
    if sent.stream is not None:
        # What has come for other streams goes out before the end of this one is looked at and booked, which takes as long as fifty events.
        # Two turns of the loop, as asyncio's own begins one with who waits already, not with what has come
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    if line is not watch and (last := line.end()):  # a watch holds nothing back
        sink.push(last)


def _check_whole(answer: Answer, watch: Watching, is_reworded: bool) -> None:
    """The provider has sent all. Raises UpstreamCut where that is not all of the answer."""
    if watch.is_stream and answer.status == 200 and not watch.ended and watch.error is None:
        raise UpstreamCut("upstream_cut", "the stream ended without its last event")
    if is_reworded and watch.is_cut_short:
        raise UpstreamCut("upstream_cut", "the content coding of the answer ended too early")


def _headers(sent: Sent, ready: Ready, is_reworded: bool) -> RawHeaders:
    """The provider's lines as they may travel, one by one."""
    answer, status, method = sent.answer, sent.answer.status, ready.call.method
    headers = answer_headers(answer.headers, method == "HEAD" or status == 304)
    if is_redirect(status) and method not in ("GET", "HEAD"):
        raise Refusal(502, "upstream_redirect", "the provider answered with a redirect, which is not followed", should_retry=False)
    if answer.said.leads:
        headers = followed_back(headers, status, sent.target.provider, ready.call)
    if sent.form.key:
        headers = without_key(headers, sent.form.key)
    return without_body_fields(headers) if is_reworded else headers


def _end_of(left: BaseException, sink: Sink, story: Story) -> str:
    """Why an answer was not relayed to its end; a defect of ours cuts it off."""
    match left:
        case Refusal():
            return f"refused:{left.code}"
        case asyncio.CancelledError() if not sink.is_gone:
            if sink.is_started:
                return f"stopped:{story.stopping}"
            return "refused:invalid_credentials" if story.stopping == REVOKED else "refused:draining"
        case ClientGone() | asyncio.CancelledError():
            return "client_gone"
        case _:
            return "upstream_cut" if sink.is_started else "refused:internal"


def _is_healthy(error: str) -> bool | None:
    """What the breaker hears of an error event: it may be the provider's fault (overloaded) or the caller's (invalid)."""
    fault = of_error_event(error).is_failure_for_breaker
    return None if fault is None else not fault


_CUT = "the provider's answer broke off; what came before this is all there is"
_STOPPED = {
    "drain": "this Sluice is shutting down and its time to finish streams is over",
    REVOKED: "the key that this call came with was revoked",
}
