"""From a ready call to its answer: attempt after attempt, each with its own hold, until one is relayed. Words no reply."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence

from proxy.charging import intended, release, take
from proxy.dialect.wire import stream_format_of
from proxy.exchange import Story, Usage
from proxy.forward.attempts import Budget, Step, Terms, further, is_last, may_retry, retry_deadline
from proxy.forward.breaker import SPENT
from proxy.forward.budget import FULL
from proxy.forward.credentials import Credentials
from proxy.forward.failure import OK, Outcome, of_answer, of_cut, of_error_event, of_failure
from proxy.forward.lane import Lane
from proxy.forward.preamble import first_error, said_first
from proxy.lines import Failed, Sent, begun, left_alone
from proxy.listen.peek import Peeked
from proxy.planning import MAX_MODELS, MAX_NAME
from proxy.policy.plan import Credential, Plan, Target
from proxy.ports import Sink
from proxy.refusal import ClientGone, Refusal, UpstreamCut, UpstreamFailed
from proxy.relaying import Relaying
from proxy.rooms import Common, Ready, Rooms

NO_KEY = (None,)  # the caller's own travels, and its refusal is the caller's business
First = tuple[Lane, Sequence[Credential | None], Budget]  # a lane, the keys of its target, the budget of its provider
LATELY_S = 1e-3  # what has come so lately came now: a look at the clock is dear
PREAMBLE_BYTES, PREAMBLE_S = 64 * 1024, 2.0  # what may be held while another attempt is possible (design.md section 1)


class Forwarding:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms, self._monotonic = rooms, rooms.clock.monotonic
        self._credentials = Credentials()
        self._relaying = Relaying(rooms)

    async def run(self, ready: Ready, sink: Sink, story: Story) -> None:
        """Raises Refusal before the point of no return; UpstreamCut, ClientGone after it."""
        plan = ready.plan
        if plan.on_client_gone == "finish" and ready.upload is None:
            sink.finish_anyway = True
        first: First | None = None if self._credentials.strikes else plan.kept.first
        lane, keys, budget = first or self._first(plan, ready.common)
        failed: Failed | None = None
        budget.active += 1
        try:
            tried = await self._attempt(lane, ready, story, None)
            if isinstance(tried, Sent):
                if (rest := self._relaying.relay(tried, ready, sink, story)) is not None:
                    await rest
                return
            failed = tried
        finally:
            if failed is None:  # the same as `budget.leave`, which most calls need not be sent to
                budget.active -= 1
                if budget.tokens < FULL:
                    budget.tokens += 1
        await self._again(failed, keys, ready, sink, story)

    def _first(self, plan: Plan, common: Common) -> First:
        """Where calls with this plan begin: kept with it, but while keys rest. Callers that send the same head the same way with our keys
        begin in the same place."""
        target, is_ours = plan.targets[0], not plan.brings_own_key
        keys = self._keys(target) if is_ours else NO_KEY
        if self._credentials.strikes:
            return self._begin(target, keys)
        first: First | None = common.firsts.get(target.model) if is_ours else None
        if first is None or first[0].target != target:
            first = self._begin(target, keys)
            if is_ours and len(target.model or "") <= MAX_NAME:
                if len(common.firsts) >= MAX_MODELS:
                    common.firsts.clear()
                common.firsts[target.model] = first
        plan.kept.first = first
        return first

    def _begin(self, target: Target, keys: Sequence[Credential | None]) -> First:
        return Lane(Step(target, keys[0], "first")), keys, self._rooms.budgets.of(target.provider.name)

    async def _again(self, failed: Failed, keys: Sequence[Credential | None], ready: Ready, sink: Sink, story: Story) -> None:
        """After a first attempt that failed: what may follow, until one is relayed, or the last failure told."""
        steps = self._further(failed, ready, keys)
        step = next(steps, None)
        try:
            while step is not None:
                await self._pause(step, sink)
                tried = await self._attempt(Lane(step), ready, story, failed)
                if isinstance(tried, Sent):
                    if (rest := self._relaying.relay(tried, ready, sink, story)) is not None:
                        await rest
                    return
                step = None if tried is failed else _next(steps, tried.outcome)
                failed = tried
            await self._last(failed, ready, sink, story)
        finally:
            if failed.sent is not None:
                self._relaying.drop(failed.sent, ready, story)
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
            text = f"provider {sent.target.provider.name} refused the key that Sluice holds for it"
            raise Refusal(502, "upstream_auth", text, should_retry=False)
        if (rest := self._relaying.relay(sent, ready, sink, story)) is not None:
            await rest

    # --- one attempt ---

    async def _attempt(self, lane: Lane, ready: Ready, story: Story, before: Failed | None) -> Sent | Failed:
        """The answer to relay, or what failed. `before` itself comes back where this attempt could not even be paid for."""
        rooms, target, provider = self._rooms, lane.target, lane.provider
        call, plan, common = ready.call, ready.plan, ready.common
        monotonic, asked = self._monotonic, ready.asked
        now = monotonic()
        turn = lane.turn
        if turn.tally.is_over and not (turn := lane.enter(rooms.breakers, plan, now)).is_allowed:
            return left_alone(turn, target, before)
        sent = begun(lane, call.uid, story, turn, call.at_ns if now - call.began < LATELY_S else rooms.clock.now_ns(), now)
        try_ = sent.try_
        try:
            quote, intent = intended(rooms, common.generation, plan, story, try_, lane, common.op, asked, ready.size)
            if intent is not None:
                await take(rooms, common.generation, try_, intent)
            form, body, asks = lane.form, ready.raw, False
            if form is None or asked.stream or ready.is_reworded or asked.model != target.theirs or lane.shaping is not common.shaping:
                form, body, asks = lane.shape(common.shaping, plan, asked, body, ready.plain, ready.is_reworded)
            sent.to = form.to
            sent.head = form.head.fixed or form.head.of(call.headers)
            sent.body = body
            sent.asked_usage = asks
            sent.quote = quote
            sent.held_nanousd = try_.held_nanousd
            sent.form = form
            if ready.upload is not None:
                _stream(sent, ready.upload, common.generation.rules.server.max_upload)
        except BaseException as no:
            turn.saw(None, now)
            release(rooms, try_)
            return self._unbegun(no, ready, story, before)
        if before is not None:
            self._give_up(before, ready, story, lane.step)
        began, timeouts = monotonic(), provider.timeouts
        try:
            answer = sent.answer = await rooms.upstream.send(sent, timeouts, began, call.began + timeouts.total)
        except BaseException as error:
            return self._unanswered(error, sent, story, began)
        finally:
            try_.is_sent = sent.is_sent
        now = try_.first_byte = monotonic()
        try_.status = status = answer.status
        sent.stream = stream = stream_format_of(common.op.variant, answer.said.kind)
        if status == 200 and (stream != "sse" or is_last(lane.step, plan, call.fields)):
            story.upstream_s += now - began  # the breaker hears of it when the answer was whole
            if self._credentials.strikes:
                self._credentials.saw(provider, lane.step.credential, OK, now)
            return sent
        return await self._judged(sent, lane.step.credential, ready, story, began)

    def _unbegun(self, no: BaseException, ready: Ready, story: Story, before: Failed | None) -> Failed:
        """The attempt ended before it left. Refused, the one before it stands; raises `no` where there is none."""
        if not isinstance(no, Refusal):
            raise no
        if before is not None:
            story.tries.pop()
            return before
        self._rooms.store.uncount(ready.call.uid)  # refused before anything left: it costs no request either
        upload = ready.upload
        if upload is not None and upload.length is None and no.code in ("exceeds_limit", "budget_exhausted"):
            no.message += _UNMEASURED
        raise no

    async def _judged(self, sent: Sent, credential: Credential | None, ready: Ready, story: Story, began: float) -> Sent | Failed:
        """What became of an attempt whose answer may be none."""
        clock, turn = self._rooms.clock, sent.turn
        try:
            outcome = await self._outcome(sent, ready)
        except BaseException:
            turn.saw(None, clock.monotonic())
            self._relaying.abandon(sent, ready)
            raise
        now = clock.monotonic()
        story.upstream_s += now - began
        if not ready.plan.brings_own_key:
            self._credentials.saw(sent.target.provider, credential, outcome, now)
        sent.outcome = outcome
        if outcome is OK:
            return sent
        if outcome.is_failure_for_breaker is not False:
            turn.saw(None if outcome.is_failure_for_breaker is None else False, now, outcome.retry_after_s)
            sent.turn = SPENT
        if not (outcome.error or outcome.fallback or outcome.credential_fault):
            return sent
        sent.try_.ended = now  # should another follow; a wait between the two is neither's
        return Failed(outcome, sent)

    async def _outcome(self, sent: Sent, ready: Ready) -> Outcome:
        """By the status; of a failure its body too; of a stream its first events: another attempt is possible."""
        answer, dialect = sent.answer, sent.form.dialect
        is_ours = not ready.plan.brings_own_key
        credit = None
        if answer.status >= 400:
            doc = await said_first(answer, PREAMBLE_BYTES, PREAMBLE_S)
            credit = dialect.failure_kind(answer.status, doc)
        elif answer.status == 200:
            try:
                error = await first_error(answer, dialect, ready.common.op, PREAMBLE_BYTES, PREAMBLE_S)
            except UpstreamCut as cut:
                return of_cut(cut)
            return OK if error is None else of_error_event(error)
        return of_answer(answer.status, answer.headers, credit, is_our_key=is_ours, now_ns=self._rooms.clock.now_ns())

    def _unanswered(self, error: BaseException, sent: Sent, story: Story, began: float) -> Failed:
        """No answer came. What was sent may be billed: it is charged at its estimate, and says so."""
        if sent.coming is not None:
            sent.coming.close()
        if not isinstance(error, UpstreamFailed):  # the client left, or its upload broke: what the provider never had whole costs nothing
            sent.turn.saw(None, self._rooms.clock.monotonic())
            if not sent.is_sent:
                release(self._rooms, sent.try_)
            raise error
        story.upstream_s += self._rooms.clock.monotonic() - began
        outcome, try_ = of_failure(error), sent.try_
        sent.turn.saw(None if outcome.is_failure_for_breaker is None else False, self._rooms.clock.monotonic())
        try_.error, try_.end = error.kind, f"refused:{error.code}"
        if not error.sent:
            try_.usage, try_.cost_nanousd = Usage(), 0
        self._rooms.books.settle(story, try_)
        text = f"provider {sent.target.provider.name}: {error.detail or error.kind}"
        return Failed(outcome, None, Refusal(error.status, error.code, text, should_retry=_may_help(error, story)))

    def _give_up(self, before: Failed, ready: Ready, story: Story, step: Step) -> None:
        """Another attempt follows: the failed one is booked and logged, its answer thrown away."""
        failed = next((one for one in reversed(story.tries[:-1])), None)
        if before.sent is not None:
            before.sent.try_.error = before.outcome.kind
            self._relaying.drop(before.sent, ready, story)
            before.sent = None
        if failed is not None:
            self._rooms.log.retried(ready.call.id, failed)
        story.upstream_s += step.after_s
        target = step.target
        if step.kind == "fallback":
            self._rooms.metrics.fell_back(target.provider.name, target.model)
        else:
            self._rooms.metrics.retried(target.provider.name, target.model, before.outcome.kind)


def _stream(sent: Sent, upload: Peeked, limit: int) -> None:
    """The body passes through."""
    sent.upload, sent.upload_length = lambda: upload.stream(limit), upload.length


def _no_key(target: Target) -> Sequence[Credential | None]:
    return NO_KEY


def _next(steps: Generator[Step, Outcome, None], outcome: Outcome) -> Step | None:
    try:
        return steps.send(outcome)
    except StopIteration:
        return None


def _may_help(error: UpstreamFailed, story: Story) -> bool | None:
    """A retry of the SDK's on top of ours multiplies; a certificate does not mend itself."""
    return False if len(story.tries) > 1 or error.kind == "tls" else None


_UNMEASURED = "; a body of unknown length is held at server.max_upload: send Content-Length"
