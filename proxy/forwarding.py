"""From a ready call to its answer: attempt after attempt, each with its own hold, until one is relayed. Words no reply."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from proxy.charging import hold, release
from proxy.dialect import dialect_of
from proxy.dialect.wire import Dialect
from proxy.exchange import Story, Try, Usage
from proxy.forward.attempts import Step, Terms, first, further, may_retry, retry_deadline
from proxy.forward.breaker import FEW_S, Turn
from proxy.forward.credentials import Credentials
from proxy.forward.failure import OK, Outcome, of_answer, of_breaker, of_cut, of_error_event, of_failure
from proxy.forward.preamble import first_error, is_whole, said_first
from proxy.forward.shape import Shaped, shape, will_ask_usage
from proxy.listen.headers import narrowed_accept_encoding
from proxy.policy.plan import Credential, Target
from proxy.ports import Answer, Outgoing, Sink
from proxy.refusal import ClientGone, Refusal, UpstreamCut, UpstreamFailed
from proxy.relaying import Outset, Relaying, Sent
from proxy.rooms import Ready, Rooms

NO_KEY = (None,)  # the caller's own travels, and its refusal is the caller's business
PREAMBLE_BYTES, PREAMBLE_S = 64 * 1024, 2.0  # what may be held while another attempt is possible (design.md section 1)


@dataclass(slots=True)
class Failed:
    """The attempt that failed last: what the client gets, should no other follow. Its answer is still open, or never was."""

    outcome: Outcome
    sent: Sent | None = None
    no: Refusal | None = None


class Forwarding:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._credentials = Credentials()
        self._relaying = Relaying(rooms)

    async def run(self, ready: Ready, sink: Sink, story: Story) -> None:
        """Raises Refusal before the point of no return; UpstreamCut, ClientGone after it."""
        rooms, plan = self._rooms, ready.plan
        sink.finish_anyway = plan.on_client_gone == "finish" and ready.upload is None
        keys = NO_KEY if plan.brings_own_key else self._keys(plan.targets[0])
        step: Step | None = first(plan, keys[0], may_retry=may_retry(ready.call.fields))
        steps: Generator[Step, Outcome, None] | None = None
        failed: Failed | None = None
        budget = rooms.budgets.of(plan.targets[0].provider.name)
        budget.enter()
        try:
            while step is not None:
                if failed is not None:
                    await self._pause(step, sink)
                tried = await self._attempt(step, ready, story, failed)
                if isinstance(tried, Sent):
                    await self._relaying.relay(tried, ready, sink, story)
                    return
                if steps is None:
                    steps = self._further(tried, ready, keys)
                    step = next(steps, None)
                else:
                    step = None if tried is failed else _next(steps, tried.outcome)
                failed = tried
            assert failed is not None
            await self._last(failed, ready, sink, story)
        finally:
            if failed is not None and failed.sent is not None:
                self._relaying.drop(failed.sent, ready, story)
            if steps is None:
                budget.leave()
            else:
                steps.close()

    async def _pause(self, step: Step, sink: Sink) -> None:
        """Before another attempt."""
        if step.after_s:
            await asyncio.sleep(step.after_s)
        if sink.is_gone:
            raise ClientGone  # what was begun is finished, nothing is begun anew for nobody

    def _further(self, failed: Failed, ready: Ready, keys: Sequence[Credential | None]) -> Generator[Step, Outcome, None]:
        """What may follow a first attempt that failed."""
        rooms, plan, call = self._rooms, ready.plan, ready.call
        deadline = retry_deadline(call.fields, call.began, plan.timeouts.total)
        terms = Terms(plan.retry, plan.fallback_on, deadline, may_retry(call.fields), ready.upload is None)
        credentials = _no_key if plan.brings_own_key else self._keys
        return further(failed.outcome, plan.targets, terms, keys, credentials, rooms.budgets, rooms.clock.monotonic, rooms.dice)

    def _keys(self, target: Target) -> Sequence[Credential | None]:
        return self._credentials.order(target.provider, self._rooms.clock.monotonic())

    async def _last(self, failed: Failed, ready: Ready, sink: Sink, story: Story) -> None:
        """No other attempt follows: the provider's own answer passes verbatim, or ours says why there is none."""
        if failed.sent is None:
            assert failed.no is not None
            raise failed.no
        sent, failed.sent = failed.sent, None
        if sent.outcome.credential_fault and sent.outcome.kind == "auth":
            self._relaying.drop(sent, ready, story)
            text = f"provider {sent.of.target.provider.name} refused the key that Sluice holds for it"
            raise Refusal(502, "upstream_auth", text, should_retry=False)
        await self._relaying.relay(sent, ready, sink, story)

    # --- one attempt ---

    async def _attempt(self, step: Step, ready: Ready, story: Story, before: Failed | None) -> Sent | Failed:
        """The answer to relay, or what failed. `before` itself comes back where this attempt could not even be paid for."""
        rooms, target = self._rooms, step.target
        now = rooms.clock.monotonic()
        turn = rooms.breakers.enter(target.provider.name, target.model, ready.plan.breaker, now)
        if not turn.is_allowed:
            outcome = of_breaker(turn.retry_after_s)
            return Failed(outcome, before.sent, before.no) if before else Failed(outcome, None, _open(turn, target))
        try_ = self._begin(step, ready, story)
        dialect = dialect_of("openai" if ready.op.speaks == "openai" else target.provider.dialect)
        try:
            charge = await hold(rooms, ready.prices, ready.plan, story, try_, target.provider, ready.op, ready.asked, ready.body_len)
            shaped = self._shaped(step, ready, dialect, try_)
        except BaseException as no:
            turn.saw(None, now)
            release(rooms, try_)
            if not isinstance(no, Refusal):
                raise
            if before is None:
                rooms.store.uncount(ready.call.uid)  # refused before anything left: it costs no request either
                if ready.upload is not None and ready.upload.length is None and no.code in ("exceeds_limit", "budget_exhausted"):
                    no.message += _UNMEASURED
                raise
            story.tries.pop()
            return before
        if before is not None:
            self._give_up(before, ready, story, step, target)
        key = b"" if step.credential is None else step.credential.secret.encode()
        outset = Outset(try_, target, dialect, turn, charge, shaped.asked_usage, key)
        return await self._send(step, outset, shaped.request, ready, story)

    def _begin(self, step: Step, ready: Ready, story: Story) -> Try:
        clock = self._rooms.clock
        number = len(story.tries) + 1
        try_ = Try(number, step.kind, step.target.provider.name, step.target.model, step.credential.name if step.credential else None)
        try_.id, try_.at_ns, try_.began = f"{ready.call.uid}/{number}", clock.now_ns(), clock.monotonic()
        story.tries.append(try_)
        return try_

    def _shaped(self, step: Step, ready: Ready, dialect: Dialect, try_: Try) -> Shaped:
        call, upload = ready.call, ready.upload

        def on_sent() -> None:
            try_.is_sent = True

        accepted = call.fields.get("accept-encoding")
        if accepted is not None:  # what we ask a usage of is taken out again by a byte test
            asks = will_ask_usage(step.target.provider, ready.op, ready.asked)
            accepted = "identity" if asks else narrowed_accept_encoding(accepted)
        return shape(
            call,
            ready.plan,
            step.target,
            step.credential,
            ready.body,
            ready.op,
            ready.asked,
            dialect=dialect,
            source=ready.source,
            headers=ready.headers,
            accept_encoding=None if accepted is None else accepted.encode("latin-1"),
            plain=ready.plain,
            upload=None if upload is None else lambda: upload.stream(ready.max_upload),
            upload_length=upload.length if upload is not None else None,
            on_sent=on_sent,
        )

    async def _send(self, step: Step, outset: Outset, request: Outgoing, ready: Ready, story: Story) -> Sent | Failed:
        clock, try_, turn = self._rooms.clock, outset.try_, outset.turn
        began = clock.monotonic()
        timeouts = outset.target.provider.timeouts
        try:
            answer = await self._rooms.upstream.send(request, timeouts, ready.call.began + timeouts.total)
        except UpstreamFailed as error:
            story.upstream_s += clock.monotonic() - began
            return self._unanswered(error, outset, story)
        except BaseException:  # the client left, or its upload broke: what the provider never had whole costs nothing
            turn.saw(None, clock.monotonic())
            if not try_.is_sent:
                release(self._rooms, try_)
            raise
        try_.status, try_.first_byte = answer.status, clock.monotonic()
        outcome = OK
        if answer.status != 200 or not (step.is_last or is_whole(answer, ready.op)):
            try:
                outcome = await self._outcome(step, outset, answer, ready)
            except BaseException:
                turn.saw(None, clock.monotonic())
                self._relaying.abandon(Sent(outset, answer, OK), ready)
                raise
        now = clock.monotonic()
        story.upstream_s += now - began
        if not ready.plan.brings_own_key:
            self._credentials.saw(outset.target.provider, step.credential, outcome, now)
        sent = Sent(outset, answer, outcome)
        if outcome is OK:  # the breaker hears of it when the answer was whole
            return sent
        if outcome.is_failure_for_breaker is not False:
            turn.saw(None if outcome.is_failure_for_breaker is None else False, now, outcome.retry_after_s)
        if not (outcome.error or outcome.fallback or outcome.credential_fault):
            return sent
        try_.ended = now  # should another follow; a wait between the two is neither's
        return Failed(outcome, sent)

    async def _outcome(self, step: Step, outset: Outset, answer: Answer, ready: Ready) -> Outcome:
        """By the status; of a failure its body too; of a stream its first events: another attempt is possible."""
        is_ours = not ready.plan.brings_own_key
        credit = None
        if answer.status >= 400:
            doc = await said_first(answer, PREAMBLE_BYTES, PREAMBLE_S)
            credit = outset.dialect.failure_kind(answer.status, doc)
        elif answer.status == 200:
            try:
                error = await first_error(answer, outset.dialect, ready.op, PREAMBLE_BYTES, PREAMBLE_S)
            except UpstreamCut as cut:
                return of_cut(cut)
            return OK if error is None else of_error_event(error)
        return of_answer(answer.status, answer.headers, credit, is_our_key=is_ours, now_ns=self._rooms.clock.now_ns())

    def _unanswered(self, error: UpstreamFailed, outset: Outset, story: Story) -> Failed:
        """No answer came. What was sent may be billed: it is charged at its estimate, and says so."""
        outcome, try_ = of_failure(error), outset.try_
        outset.turn.saw(None if outcome.is_failure_for_breaker is None else False, self._rooms.clock.monotonic())
        try_.error, try_.end = error.kind, f"refused:{error.code}"
        if not error.sent:
            try_.usage, try_.cost_nanousd = Usage(), 0
        self._rooms.books.settle(story, try_)
        text = f"provider {outset.target.provider.name}: {error.detail or error.kind}"
        return Failed(outcome, None, Refusal(error.status, error.code, text, should_retry=_may_help(error, story)))

    def _give_up(self, before: Failed, ready: Ready, story: Story, step: Step, target: Target) -> None:
        """Another attempt follows: the failed one is booked and logged, its answer thrown away."""
        failed = next((one for one in reversed(story.tries[:-1])), None)
        if before.sent is not None:
            before.sent.of.try_.error = before.outcome.kind
            self._relaying.drop(before.sent, ready, story)
            before.sent = None
        if failed is not None:
            self._rooms.log.retried(ready.call.id, failed)
        story.upstream_s += step.after_s
        if step.kind == "fallback":
            self._rooms.metrics.fell_back(target.provider.name, target.model)
        else:
            self._rooms.metrics.retried(target.provider.name, target.model, before.outcome.kind)


def _no_key(target: Target) -> Sequence[Credential | None]:
    return NO_KEY


def _next(steps: Generator[Step, Outcome, None], outcome: Outcome) -> Step | None:
    try:
        return steps.send(outcome)
    except StopIteration:
        return None


def _open(turn: Turn, target: Target) -> Refusal:
    wait = turn.retry_after_s
    text = f"provider {target.provider.name} is failing for this model and is left alone for a while"
    return Refusal(503, "breaker_open", text, retry_after=wait, should_retry=None if wait <= FEW_S else False)


def _may_help(error: UpstreamFailed, story: Story) -> bool | None:
    """A retry of the SDK's on top of ours multiplies; a certificate does not mend itself."""
    return False if len(story.tries) > 1 or error.kind == "tls" else None


_UNMEASURED = "; a body of unknown length is held at server.max_upload: send Content-Length"
