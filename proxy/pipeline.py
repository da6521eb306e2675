"""THE DATA PATH: one coroutine calls the rooms in order, top to bottom. What is not visible here does not happen.

listen (before we begin) → identify → policy → admit → guard → forward → meter → record
"""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.at_limit import degraded
from proxy.charging import quoted
from proxy.dialect.wire import Asked, Operation
from proxy.exchange import Call, Story
from proxy.forwarding import Forwarding
from proxy.guard.mask import Blocked, inspect, inspect_other
from proxy.identify.who import REVOKED_KEY, end_user
from proxy.listen.peek import Peeked
from proxy.listen.reply import Refused, reply_headers
from proxy.planning import COMMON, common, early, facts_of, plan_of
from proxy.policy.build import UNTEXTUAL
from proxy.policy.plan import Facts, GuardRules, Plan, Rulebook
from proxy.ports import Body, Sink
from proxy.refusal import ClientGone, Refusal, UpstreamCut
from proxy.rooms import Common, Ready, Rooms
from proxy.stream.body import read_json
from proxy.stream.coding import decode
from proxy.stream.multipart import FormField
from proxy.under_way import REVOKED

FORMLESS = frozenset({"files", "batches", "models"})  # operations whose forms name no model
PEEK_BYTES, PEEK_S = 64 * 1024, 1.0


class Pipeline:
    """All calls share it; nothing of one call is kept here."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._forwarding = Forwarding(rooms)

    async def run(self, call: Call, body: Body, sink: Sink) -> None:
        """One call from its headers to its end. Raises only CancelledError."""
        rooms = self._rooms
        generation = rooms.current()
        rules = generation.rules
        story = Story(call, rules.generation)
        rooms.under_way[story] = sink
        peeked: Peeked | None = None
        try:
            found: Any = call.kept.get(COMMON)
            shared: Common = found if found is not None and found.generation is generation else common(generation, call)
            op = shared.op
            story.speaks = shared.speaks
            story.operation = op.name
            story.model = op.model
            # identify
            caller = story.caller = rooms.identify.met(call, rules.callers) or await rooms.identify.who(call, rules.callers)
            # policy, as far as headers tell; what is exhausted is refused before the body is read
            known: Any = caller.kept.get(shared) or early(shared, call, caller, self._user(call, rules, None))
            claims = story.claims = known.claims
            rooms.store.peek(claims)
            if shared.is_json:
                raw = await body.read(rules.server.max_body)
                plain = _plain(shared, call, raw) if "content-encoding" in call.fields else raw
                asked = shared.dialect.read_asked(op, read_json(plain))
                ready = Ready(call, shared, asked, raw, plain, True)
                del raw, plain  # what the guard masks is gone then
            else:
                peeked = Peeked(body)
                ready = await self._read(shared, call, peeked, facts_of(shared, call, caller, op.model, self._user(call, rules, None)))
                asked = ready.asked
            model = story.model = asked.model or op.model
            story.streamed = asked.stream
            plan: Plan = known.plans.get(model) or plan_of(known, shared, call, caller, model, self._user(call, rules, asked.user))
            if plan.degrading and (ready.raw is not None or op.model is not None):  # of a body that streams through, no name is changed
                plan = self._degraded(ready, plan, facts_of(shared, call, caller, model, self._user(call, rules, asked.user)))
            ready.plan = plan
            story.model = plan.model
            claims = story.claims = plan.claims
            # admit
            await rooms.store.enter(call.uid, claims)
            # guard
            if plan.guard.entities:
                self._guard(ready, plan.guard, story)
            # forward, meter, record
            ready.size = _most(peeked, plan, rules) if ready.plain is None else len(ready.plain)
            await self._forwarding.run(ready, sink, story)
        except BaseException as error:
            if not self._is_told(error, sink, story):
                raise
        finally:
            del rooms.under_way[story]
            if peeked is not None:
                peeked.close()
            rooms.books.close(story)

    def _is_told(self, error: BaseException, sink: Sink, story: Story) -> bool:
        """The call ended otherwise than well, and client and story are told so. False: who runs the call is to hear of it too."""
        match error:
            case Refusal():
                self._refuse(error, sink, story)
            case ClientGone():
                story.end = "client_gone"
            case UpstreamCut():
                story.end = "upstream_cut"  # the sink was told where it happened
            case asyncio.CancelledError():
                self._stopped(sink, story)
                return False
            case Exception():
                self._rooms.log.failure(story.call.id, error)
                self._refuse(Refusal(500, "internal", _INTERNAL, should_retry=False), sink, story)
            case _:
                return False
        return True

    def _user(self, call: Call, rules: Rulebook, said: str | None) -> str | None:
        """The end user, as far as the headers tell, or what the body `said`. What is kept of a head and a caller does not go by it."""
        callers = rules.callers
        return end_user(call.fields, said, callers, self._rooms.secret) if callers.end_user else None

    def _degraded(self, ready: Ready, plan: Plan, facts: Facts) -> Plan:
        return degraded(ready.common.generation.rules, self._rooms.store, facts, plan, lambda: _may_cost(ready, plan))

    async def _read(self, common: Common, call: Call, body: Peeked, facts: Facts) -> Ready:
        """What a matching rule must read is held in memory; what need not be held streams through."""
        op, rules = common.op, common.generation.rules
        if body.length == 0:
            return Ready(call, common, Asked(model=op.model), b"", b"", False)
        if op.body != "json" and not (_may_be_json(call, op) and rules.needs_body(facts)):
            return await self._peeked(common, call, body, facts)
        raw = await body.read(rules.server.max_body)
        plain: bytes | None = None
        try:
            plain = _plain(common, call, raw)
            return Ready(call, common, common.dialect.read_asked(op, read_json(plain)), raw, plain, True)
        except Refusal:
            if op.body == "json" or (op.name == "other" and rules.must_read(facts)):
                raise
            return Ready(call, common, Asked(model=op.model), raw, plain, False)  # a path we do not know may take what we cannot read

    async def _peeked(self, common: Common, call: Call, body: Peeked, facts: Facts) -> Ready:
        """A body that streams through. Of a form, the model's name is looked for in its beginning: prices and limits go by it."""
        op, rules, kind = common.op, common.generation.rules, call.fields.get("content-type", "")
        if op.name in FORMLESS or "multipart/form-data" not in kind.lower():
            return Ready(call, common, Asked(model=op.model), None, None, False, body)
        model, server = FormField(kind, "model"), rules.server
        if not rules.must_read(facts):
            await body.head(model, server.max_upload, PEEK_BYTES, PEEK_S)
        elif not await body.head(model, server.max_upload, server.max_body, None):
            text = f"the form names no model in its first {server.max_body} bytes, and a policy goes by it; put it before the file"
            raise Refusal(413, "too_large", text, should_retry=False, close=True)
        return Ready(call, common, Asked(model=model.value or op.model), None, None, False, body)

    def _guard(self, ready: Ready, rules: GuardRules, story: Story) -> None:
        """Masks, flags or blocks what must not leave. A masked body goes out without the coding it came in."""
        common, plain = ready.common, ready.plain
        if plain is None or not ready.is_json:
            if ready.raw != b"":
                story.found.update(inspect_other(("file",), rules))
            return
        if (ready.asked.media or not common.is_json) and common.op.name != "other":  # of JSON on an unknown path, every text is inspected
            story.found.update(inspect_other(common.dialect.uninspected(common.op, ready.asked), rules))
        seen = inspect(plain, common.surface, rules)
        if seen is not None:
            story.found.update(seen.found)
            if seen.body != plain:
                ready.raw = ready.plain = seen.body
                ready.is_reworded, ready.vault = True, seen.vault if rules.restore else None

    def _refuse(self, no: Refusal, sink: Sink, story: Story) -> None:
        if sink.is_started:  # our own failure past the point of no return: never a clean end
            story.end = "upstream_cut"
            sink.abort(b"")
            return
        story.end, story.limit = f"refused:{no.code}", no.limit
        if isinstance(no, Blocked):
            story.found.update(no.found)
        self._rooms.books.refused(story, no)
        standings = self._rooms.store.standings(story.claims)
        self._rooms.alerts.saw(story.claims, standings, no.limit if no.code == "budget_exhausted" else None)
        headers = reply_headers(
            story.call.id,
            standings=standings,
            status=no.status,
            no=Refused(no.limit, no.kind, no.retry_after),
            attempts=_sent(story),
            found=story.found,
        )
        story.status = sink.refuse(no, story.speaks or self._rooms.current().rules.providers[story.call.route.provider].dialect, headers)

    def _stopped(self, sink: Sink, story: Story) -> None:
        """Cancelled from outside: the client left, the drain is over, or the key was revoked."""
        if sink.is_gone:
            story.end = "client_gone"
        elif sink.is_started:
            story.end = f"stopped:{story.stopping}"
        elif story.stopping == REVOKED:
            self._refuse(Refusal(401, "invalid_credentials", REVOKED_KEY, should_retry=False, close=True), sink, story)
        else:
            self._refuse(Refusal(503, "draining", "this Sluice is shutting down", retry_after=1, close=True), sink, story)


def _may_be_json(call: Call, op: Operation) -> bool:
    """By its Content-Type, which a caller may choose: on a path that we do not know, whatever is neither form nor media."""
    kind = call.fields.get("content-type", "").lower()
    return "json" in kind or (op.name == "other" and not kind.startswith(UNTEXTUAL))


def _most(body: Body | None, plan: Plan, rules: Rulebook) -> int:
    """Bytes of a body that streams through, or is not read. Of one that does not say (chunked) a budget fears the most that is taken."""
    if body is not None and body.length is not None:
        return body.length
    return rules.server.max_upload if plan.is_under_spend_limit else 0


def _plain(common: Common, call: Call, raw: bytes) -> bytes:
    coding = call.fields.get("content-encoding")
    return decode(coding, raw, common.generation.rules.server.max_body) if coding else raw


def _may_cost(ready: Ready, plan: Plan) -> int:
    """Nano-dollars, at most; 0 where there is no price."""
    try:
        first, asked, common, size = plan.targets[0], ready.asked, ready.common, len(ready.plain or b"")
        prices, at_ns = common.generation.prices, ready.call.at_ns
        return quoted(prices, plan, first.provider, first.model, common.op, asked, size, at_ns, asked.tier)[2]
    except Refusal:
        return 0


def _sent(story: Story) -> int:
    return sum(try_.kind != "refusal" for try_ in story.tries)


_INTERNAL = "an error inside Sluice; its log names it by this request id"
