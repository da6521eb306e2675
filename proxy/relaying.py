"""From an answer to the client: lines of taps, headers, the point of no return, and the settle after the last byte. Retries nothing."""

from __future__ import annotations

import asyncio
from dataclasses import field

import orjson

from proxy.at_limit import MoneyEnded, Purse, purse
from proxy.charging import Charge, defer, learn, reckon, settle, settle_job
from proxy.dialect.fields import plain_path
from proxy.dialect.jobs import RESULTS
from proxy.dialect.wire import Dialect
from proxy.exchange import RawHeaders, Story, Try, Usage, value
from proxy.forward.breaker import Turn
from proxy.forward.failure import OK, Outcome, of_error_event
from proxy.forward.preamble import header_of
from proxy.forward.redirect import followed_back, is_redirect
from proxy.forward.reflection import KeyReflected, without_key
from proxy.lines import Through, by_events, coding_of, form_of, guarded, last_words
from proxy.listen.headers import answer_headers
from proxy.listen.reply import reply_headers
from proxy.meter.strip import StripUsage
from proxy.meter.tap import JOBS, Watch
from proxy.policy.plan import Target
from proxy.ports import Answer, Line, Outlet, Sink
from proxy.refusal import ClientGone, Refusal, UpstreamCut
from proxy.rooms import Ready, Rooms
from proxy.stream.coding import decode, without_body_fields
from proxy.stream.tail import Tail
from proxy.under_way import REVOKED

MAX_LIST = 4 * 1024 * 1024  # bytes of a list of models
LIST_S = 10.0


@value(frozen=True, slots=True)
class Outset:
    """One attempt as it leaves: where to, and what was held for it."""

    try_: Try
    target: Target
    dialect: Dialect
    turn: Turn
    charge: Charge
    asked_usage: bool  # by us, not by the caller
    key: bytes = field(default=b"", repr=False)  # of ours, as it was sent


@value(frozen=True, slots=True)
class Sent:
    """The attempt with its answer, whose head has come."""

    of: Outset
    answer: Answer
    outcome: Outcome


class Relaying:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    async def relay(self, sent: Sent, ready: Ready, sink: Sink, story: Story) -> None:
        """Everything of this answer, then its settle. Raises Refusal only before the point of no return."""
        answer, clock = sent.answer, self._rooms.clock
        began = clock.monotonic()
        watch = self._watch(sent, ready, answer)
        paid = self._purse(sent, ready, watch)
        tail, form = Tail(watch), ""
        ok: bool | None = None  # of the breaker: True, answered whole; None, nobody's fault
        try:
            headers, line, body = await self._line(sent, ready, answer, watch, paid)
            tail, form = Tail(guarded(sent.of.key, headers, line)), form_of(ready, headers)
            line_changes_length = body is None and line is not watch
            length = None if line_changes_length or watch.is_stream else answer.length
            if body is not None:
                watch.feed(body)
            ours = self._ours(sent, ready, story, headers, sink, None if body is None else watch.usage())
            sink.start(answer.status, answer.reason, ours, length if body is None else len(body))  # THE POINT OF NO RETURN
            story.started, story.status = clock.monotonic(), answer.status
            if sent.outcome is OK and sent.of.turn.state == "half_open":
                sent.of.turn.saw(True, story.started)  # a probe is decided by its first content, not by a stream's end
            if body is not None:
                sink.push(body)
            else:
                is_decoded = line is not watch and coding_of(headers) != coding_of(answer.headers)
                await self._through(answer, sink if paid is None else paid.before(sink), tail, watch, is_decoded=is_decoded)
            sink.finish()
            ok = True
            if sink.is_gone:  # and finished anyway
                story.end = sent.of.try_.end = "client_gone"
        except UpstreamCut as cut:
            ok = False
            self._broke_off(cut, sent, sink)
            sink.abort(last_words(sent.of.dialect, ready, tail, form, cut.code, _CUT))
            raise
        except MoneyEnded as ended:
            self._stop(ended, sent, sink, story, tail, form)
        except BaseException as left:
            sent.of.try_.end = _end_of(left, sink, story)
            if isinstance(left, asyncio.CancelledError) and not sink.is_gone and sink.is_started:
                sink.push(tail.end())
                sink.abort(last_words(sent.of.dialect, ready, tail, form, f"stopped_{story.stopping}", _STOPPED[story.stopping]))
            raise
        finally:
            answer.close()
            now = clock.monotonic()
            story.upstream_s += now - began
            sent.of.turn.saw(_healthy(ok, sent, watch), now)
            self._settle(sent, ready, story, watch)

    def _purse(self, sent: Sent, ready: Ready, watch: Watch) -> Purse | None:
        of = sent.of
        return (
            None
            if sent.answer.status != 200
            else purse(self._rooms.store, ready, of.try_, of.charge.quote, of.charge.most, watch, of.dialect)
        )

    def _stop(self, ended: MoneyEnded, sent: Sent, sink: Sink, story: Story, tail: Tail, form: str) -> None:
        """The money has ended: the answer is brought to a good end, as if it had reached its largest length."""
        story.end = sent.of.try_.end = "stopped:money"
        story.limit = ended.limit
        self._rooms.log.event("info", "stream stopped", code="stopped_money", limit=story.limit, request_id=story.call.id)
        sink.push(tail.end())
        gap = tail.gap(form)
        if gap is None:
            sink.abort(b"")
            return
        sink.push(gap + ended.purse.words())
        sink.finish()

    def _broke_off(self, cut: UpstreamCut, sent: Sent, sink: Sink) -> None:
        sent.of.try_.end, sent.of.try_.error = "upstream_cut", cut.code
        if isinstance(cut, KeyReflected):
            self._rooms.log.event("error", "key reflected by the provider", provider=sent.of.target.provider.name)
        if not sink.is_started:
            status, code = (502, "upstream_protocol") if cut.code == "upstream_cut" else (504, cut.code)
            sent.of.try_.end = f"refused:{code}"
            raise Refusal(status, code, "the provider's answer ended in its middle") from cut

    def drop(self, sent: Sent, ready: Ready, story: Story) -> None:
        """An answer that will not be relayed: the attempt failed, and is over since then."""
        try_ = sent.of.try_
        ended = try_.ended
        self.abandon(sent, ready)
        try_.end, try_.error, try_.ended = "done", sent.outcome.kind, ended
        self._rooms.books.settle(story, try_)

    def abandon(self, sent: Sent, ready: Ready) -> None:
        """An answer nobody reads. An error costs nothing; a good one that was left, or broke, has read its input at least."""
        sent.answer.close()
        is_good = sent.answer.status < 300 and (sent.outcome is OK or sent.outcome.is_once)
        usage = self._watch(sent, ready, sent.answer).usage() if is_good else Usage()
        reckon(self._rooms, ready.prices, sent.of.try_, sent.of.charge.quote, usage, ready.op)

    # --- inside ---

    def _watch(self, sent: Sent, ready: Ready, answer: Answer) -> Watch:
        upload = ready.upload
        return Watch(
            sent.of.dialect,
            ready.op,
            ready.asked,
            content_type=header_of(answer.headers, b"content-type"),
            content_encoding=header_of(answer.headers, b"content-encoding"),
            status=answer.status,
            headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers},
            input_bound=sent.of.charge.most.sent_tokens,
            output_bound=sent.of.charge.most.output_tokens,
            uploaded=None if upload is None else lambda: upload.passed,
        )

    async def _line(
        self, sent: Sent, ready: Ready, answer: Answer, watch: Watch, paid: Purse | None
    ) -> tuple[RawHeaders, Line, bytes | None]:
        """The provider's headers as they may travel, the line its body passes, and the body itself where policy words it anew."""
        headers = answer_headers(answer.headers, ready.call.method == "HEAD" or answer.status == 304)
        if is_redirect(answer.status) and ready.call.method not in ("GET", "HEAD"):
            raise Refusal(502, "upstream_redirect", "the provider answered with a redirect, which is not followed", should_retry=False)
        headers = followed_back(headers, answer.status, sent.of.target.provider, ready.call)
        headers = without_key(headers, sent.of.key) if sent.of.key else headers
        if ready.op.name == "models" and answer.status == 200 and (listed := await self._listed(sent, ready, answer)) is not None:
            return without_body_fields(headers), watch, listed
        line: Line = watch
        if sent.of.asked_usage and watch.is_stream and not coding_of(answer.headers):
            line = StripUsage(line)
        if (events := by_events(sent.of.dialect, ready, answer.headers, paid)) is not None:
            line, headers = Through(line, events), without_body_fields(headers)
        return headers, line, None

    async def _listed(self, sent: Sent, ready: Ready, answer: Answer) -> bytes | None:
        """The provider's list of models without those this caller may not use; None where all may stay."""
        data = await answer.preamble(lambda held: False, MAX_LIST, LIST_S)
        try:
            doc = orjson.loads(decode(header_of(answer.headers, b"content-encoding"), data, MAX_LIST))
        except (orjson.JSONDecodeError, Refusal):
            return None
        listed = sent.of.dialect.models_listed(doc) if isinstance(doc, dict) else None
        if listed is None:
            return None
        key, names = listed
        may = [ready.may_list(ready.plan.caller, name) for name in names]
        if all(may):
            return None
        entries = doc[key]
        doc[key] = [entry for entry, is_allowed in zip(entries, may, strict=True) if is_allowed]
        return orjson.dumps(doc)

    def _ours(self, sent: Sent, ready: Ready, story: Story, headers: RawHeaders, sink: Sink, used: Usage | None) -> RawHeaders:
        """`used`: of an answer that is known whole before it begins."""
        clock, target = self._rooms.clock, sent.of.target
        sink.finish_anyway = ready.plan.on_client_gone == "finish"
        standings = (*ready.standings, *sent.of.charge.standings)
        self._rooms.metrics.limits(standings)
        return reply_headers(
            ready.call.id,
            headers,
            now_s=clock.now_ns() / 1e9,
            status=sent.answer.status,
            overhead_ms=max(0.0, clock.monotonic() - ready.call.began - story.upstream_s) * 1000,
            standings=standings,
            provider=target.provider.name,
            attempts=len(story.tries),
            model=target.model if target.model != ready.plan.model else None,
            found=story.found,
            reserved_nanousd=sent.of.try_.held_nanousd or None,
            cost_nanousd=None if used is None else ready.prices.priced(sent.of.charge.quote, used).cost_nanousd,
            should_retry=False if sent.outcome is not OK and (len(story.tries) > 1 or sent.outcome.credential_fault) else None,
        )

    async def _through(self, answer: Answer, sink: Outlet, line: Line, watch: Watch, *, is_decoded: bool) -> None:
        try:
            await answer.relay(sink, line)
        except UpstreamCut:
            sink.push(line.end())
            raise
        if last := line.end():
            sink.push(last)
        if watch.is_stream and answer.status == 200 and not watch.ended and watch.error is None:
            raise UpstreamCut("upstream_cut", "the stream ended without its last event")
        if is_decoded and watch.is_cut_short:
            raise UpstreamCut("upstream_cut", "the content coding of the answer ended too early")

    def _settle(self, sent: Sent, ready: Ready, story: Story, watch: Watch) -> None:
        rooms, op, try_, charge = self._rooms, ready.op, sent.of.try_, sent.of.charge
        job = watch.job(_named(ready.call.route.path)) if op.name in JOBS else None
        if job is not None and op.is_billed and not job.is_over:
            return defer(rooms, story, try_, charge.quote, job)
        usage = watch.usage()
        learn(rooms, try_, charge.most, usage, ready.asked)
        settle(rooms, ready.prices, story, try_, charge.quote, usage, op)
        is_all = op.variant != RESULTS or try_.end == "done"  # of results, no line tells that it is the last
        if job is not None and job.is_over and is_all and not op.is_billed:
            settle_job(rooms, ready.prices, ready.plan.pricing, sent.of.target.provider, job)
        if try_.cost_nanousd > charge.nanousd and rooms.alerts.is_on:  # no hold has shown so much
            stopped = story.limit if try_.end == "stopped:money" else None
            rooms.alerts.saw(ready.plan.claims, rooms.store.standings(ready.plan.claims), stopped)


def _named(path: str) -> str | None:
    """The job whose results this path asks for."""
    *_, before, last = ("", "", *plain_path(path).split("/"))
    return before if last == "results" else None


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


def _healthy(ok: bool | None, sent: Sent, watch: Watch) -> bool | None:
    """What the breaker hears of an answer: an error event may be the provider's fault (overloaded) or the caller's (invalid)."""
    error = watch.error if sent.outcome is OK else None
    if not ok or error is None:
        return ok
    fault = of_error_event(error).is_failure_for_breaker
    return None if fault is None else not fault


_CUT = "the provider's answer broke off; what came before this is all there is"
_STOPPED = {
    "drain": "this Sluice is shutting down and its time to finish streams is over",
    REVOKED: "the key that this call came with was revoked",
}
