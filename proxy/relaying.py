"""From an answer to the client: lines of taps, headers, the point of no return, and the settle after the last byte. Retries nothing."""

from __future__ import annotations

import asyncio
from dataclasses import field

from proxy.at_limit import MoneyEnded, Purse, purse
from proxy.charging import Charge, defer, learn, reckon, settle, settle_job
from proxy.dialect.jobs import RESULTS
from proxy.dialect.wire import Dialect
from proxy.exchange import RawHeaders, Story, Try, Usage, value
from proxy.forward.breaker import Turn
from proxy.forward.failure import OK, Outcome, of_error_event
from proxy.forward.redirect import followed_back, is_redirect
from proxy.forward.reflection import KeyReflected, without_key
from proxy.lines import NOWHERE, Spoken, form_of, guarded, last_words, reworded
from proxy.listed import listed
from proxy.listen.headers import answer_headers
from proxy.listen.reply import our_lines, said_in, said_of
from proxy.meter.tap import Watch
from proxy.policy.plan import Target
from proxy.ports import Answer, Line, Outlet, Sink
from proxy.refusal import ClientGone, Refusal, UpstreamCut
from proxy.rooms import Ready, Rooms
from proxy.stream.coding import without_body_fields
from proxy.stream.tail import Tail
from proxy.under_way import REVOKED


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


@value(frozen=True, slots=True)
class Way:
    """How an answer reaches the client: the lines of its head, and the line its bytes pass; or its `body`, where policy words it anew."""

    headers: RawHeaders
    line: Line
    tail: Tail | None = None  # the same line, where it is a stream that we could say something into
    form: str = ""  # of that stream, as the client gets it
    length: int | None = None  # of the body, where it is known
    body: bytes | None = None
    is_decoded: bool = False
    lines: bytes | None = None  # of the head, as on the wire, in the place of `headers`


NO_WAY = Way((), NOWHERE)


class Relaying:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    async def relay(self, sent: Sent, ready: Ready, sink: Sink, story: Story) -> None:
        """Everything of this answer, then its settle. Raises Refusal only before the point of no return."""
        answer, of, clock = sent.answer, sent.of, self._rooms.clock
        began = clock.monotonic()
        head = answer.said
        watch = self._watch(sent, ready, head)
        paid = purse(self._rooms.store, ready, of.try_, of.charge, watch, of.dialect) if answer.status == 200 else None
        way = NO_WAY
        ok: bool | None = None  # of the breaker: True, answered whole; None, nobody's fault
        try:
            body = await listed(ready, of.dialect, answer, head) if ready.op.name == "models" and answer.status == 200 else None
            way = self._way(sent, ready, head, watch, paid, body, sink)
            headers, ours = self._ours(sent, ready, story, way, sink, None if way.body is None else watch.usage())
            sink.start(answer.status, answer.reason, headers, way.length, ours)  # THE POINT OF NO RETURN
            story.started, story.status = clock.monotonic(), answer.status
            if of.turn.state == "half_open" and sent.outcome is OK:
                of.turn.saw(True, story.started)  # a probe is decided by its first content, not by a stream's end
            if way.body is not None:
                sink.push(way.body)
            else:
                await self._through(answer, sink if paid is None else paid.before(sink), way, watch)
            sink.finish()
            ok = True
            if sink.is_gone:  # and finished anyway
                story.end = of.try_.end = "client_gone"
        except UpstreamCut as cut:
            ok = False
            self._broke_off(cut, sent, sink)
            sink.abort(last_words(of.dialect, ready, way.tail, way.form, cut.code, _CUT))
            raise
        except MoneyEnded as ended:
            self._stop(ended, sent, sink, story, way)
        except BaseException as left:
            of.try_.end = _end_of(left, sink, story)
            if isinstance(left, asyncio.CancelledError) and not sink.is_gone and sink.is_started:
                sink.push(way.line.end())
                sink.abort(last_words(of.dialect, ready, way.tail, way.form, f"stopped_{story.stopping}", _STOPPED[story.stopping]))
            raise
        finally:
            answer.close()
            now = clock.monotonic()
            story.upstream_s += now - began
            of.turn.saw(_healthy(ok, sent, watch), now)
            self._settle(sent, ready, story, watch)

    def _stop(self, ended: MoneyEnded, sent: Sent, sink: Sink, story: Story, way: Way) -> None:
        """The money has ended: the answer is brought to a good end, as if it had reached its largest length."""
        story.end = sent.of.try_.end = "stopped:money"
        story.limit = ended.limit
        self._rooms.log.event("info", "stream stopped", code="stopped_money", limit=story.limit, request_id=story.call.id)
        sink.push(way.line.end())
        gap = way.tail.gap(way.form) if way.tail else None
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
        usage = self._watch(sent, ready, sent.answer.said).usage() if is_good else Usage()
        reckon(self._rooms, ready.prices, sent.of.try_, sent.of.charge.quote, usage, ready.op)

    # --- inside ---

    def _watch(self, sent: Sent, ready: Ready, head: Spoken) -> Watch:
        upload, most = ready.upload, sent.of.charge.most
        return Watch(
            sent.of.dialect,
            ready.op,
            ready.asked,
            content_type=head.kind,
            content_encoding=head.coding,
            status=sent.answer.status,
            input_bound=most.sent_tokens,
            output_bound=most.output_tokens,
            uploaded=None if upload is None else lambda: upload.passed,
        )

    def _way(self, sent: Sent, ready: Ready, head: Spoken, watch: Watch, paid: Purse | None, body: bytes | None, sink: Sink) -> Way:
        """How this answer reaches the client. `body`: the list of models that stands in its place."""
        answer, of = sent.answer, sent.of
        if body is not None:
            watch.feed(body)
            return Way(without_body_fields(self._headers(sent, ready, head)), watch, None, "", len(body), body)
        line, is_reworded = reworded(of.dialect, ready, head, paid, watch, asked_usage=of.asked_usage)
        length = answer.length if line is watch and not watch.is_stream else None
        is_decoded = is_reworded and head.coding != ""
        lines = None if is_reworded else _unchanged(sent, ready, head, sink)
        headers = self._headers(sent, ready, head) if lines is None else ()
        if is_reworded:
            headers, head = without_body_fields(headers), Spoken(head.kind)
        line = guarded(of.key, head, line)
        if not (form := form_of(ready, head)):
            return Way(headers, line, None, "", length, None, is_decoded, lines)
        tail = Tail(line)
        return Way(headers, tail, tail, form, length, None, is_decoded, lines)

    def _headers(self, sent: Sent, ready: Ready, head: Spoken) -> RawHeaders:
        """The provider's lines as they may travel."""
        answer, status, method = sent.answer, sent.answer.status, ready.call.method
        headers = answer_headers(answer.headers, method == "HEAD" or status == 304)
        if is_redirect(status) and method not in ("GET", "HEAD"):
            raise Refusal(502, "upstream_redirect", "the provider answered with a redirect, which is not followed", should_retry=False)
        if head.leads:
            headers = followed_back(headers, status, sent.of.target.provider, ready.call)
        return without_key(headers, sent.of.key) if sent.of.key else headers

    def _ours(self, sent: Sent, ready: Ready, story: Story, way: Way, sink: Sink, used: Usage | None) -> tuple[RawHeaders, bytes]:
        """The provider's lines, but for what we say better, and ours. `used`: of an answer that is known whole before it begins."""
        headers = way.headers
        clock, of, plan = self._rooms.clock, sent.of, ready.plan
        target = of.target
        sink.finish_anyway = plan.on_client_gone == "finish"
        standings = (*ready.standings, *of.charge.standings)
        self._rooms.metrics.limits(standings)
        hopeless = sent.outcome is not OK and (len(story.tries) > 1 or sent.outcome.credential_fault)
        if hopeless:
            headers = tuple(line for line in headers if line[0].lower() != b"x-should-retry")
        ours = our_lines(
            ready.call.id,
            headers if way.lines is None else _said(sent.answer),
            clock.now_ns() / 1e9,
            sent.answer.status,
            max(0.0, clock.monotonic() - ready.call.began - story.upstream_s) * 1000,
            standings,
            target.provider.name,
            len(story.tries),
            target.model if target.model != plan.model else None,
            of.try_.held_nanousd or None,
            None if used is None else ready.prices.priced(of.charge.quote, used).cost_nanousd,
            story.found,
            False if hopeless else None,
        )
        return headers, b"%b\r\n%b" % (way.lines, ours) if way.lines else ours

    async def _through(self, answer: Answer, sink: Outlet, way: Way, watch: Watch) -> None:
        try:
            await answer.relay(sink, way.line)
        except UpstreamCut:
            sink.push(way.line.end())
            raise
        if last := way.line.end():
            sink.push(last)
        if watch.is_stream and answer.status == 200 and not watch.ended and watch.error is None:
            raise UpstreamCut("upstream_cut", "the stream ended without its last event")
        if way.is_decoded and watch.is_cut_short:
            raise UpstreamCut("upstream_cut", "the content coding of the answer ended too early")

    def _settle(self, sent: Sent, ready: Ready, story: Story, watch: Watch) -> None:
        rooms, op, try_, charge = self._rooms, ready.op, sent.of.try_, sent.of.charge
        job = watch.job(ready.call.route.path)
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


def _unchanged(sent: Sent, ready: Ready, head: Spoken, sink: Sink) -> bytes | None:
    """The provider's lines as on the wire, where they travel as they are; None: they want a look each."""
    lines, key = sent.answer.lines, sent.of.key
    if lines is None or sent.outcome is not OK or head.leads or (head.shares and sink.cors) or (key and key in lines):
        return None
    return None if ready.call.method == "HEAD" or is_redirect(sent.answer.status) else lines


def _said(answer: Answer) -> int:
    """Which lines of ours the provider has said, of a head of a known form."""
    said = answer.said.kept.get(said_in)
    return said if isinstance(said, int) else said_of(answer_headers(answer.headers), answer.said.kept)


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
