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
from proxy.identify.who import REVOKED_KEY, Met, end_user
from proxy.listen.peek import Peeked
from proxy.listen.reply import Refused, reply_headers
from proxy.planning import COMMON, Known, common, early, facts_of, plan_of
from proxy.policy.build import UNTEXTUAL
from proxy.policy.plan import Facts, GuardRules, Plan
from proxy.ports import Body, Sink
from proxy.refusal import ClientGone, Refusal, UpstreamCut
from proxy.rooms import Common, Generation, Ready, Rooms, ready_of
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

    async def _known(self, call: Call, generation: Generation, story: Story) -> Known:
        """Who calls, with which head: found out anew where nothing of it is known, or no more. Raises Refusal."""
        identify, rules = self._rooms.identify, generation.rules
        shared = common(generation, call)
        story.speaks, story.operation, story.model = shared.speaks, shared.op.name, shared.op.model
        caller = story.caller = identify.met(call, rules.callers) or await identify.who(call, rules.callers)
        known = early(shared, call, caller, self._user(call, shared, None))
        met: Any = call.seen and call.seen.get(Met)
        if met and known.is_kept and call.seen is not None:
            known.met, call.seen[Known], met.known = met, known, known
        return known

    def _returned(self, call: Call, seen: dict[object, Any]) -> Known | None:
        """What is known of who has come before with this head, on whatever connection; others may have come in between."""
        shared: Any = call.kept.get(COMMON)
        if shared is None or not shared.may_keep or (met := self._rooms.identify.met_by_digest(call)) is None:
            return None
        known: Known | None = met.known
        if known is None or known.met is not met or known.common is not shared:
            return None
        seen[Known] = known
        return known

    async def run(self, call: Call, body: Body, sink: Sink) -> None:
        """One call from its headers to its end. Raises only CancelledError."""
        rooms = self._rooms
        generation = rooms.generation
        story = ready = ready_of(call, generation.rules.generation)
        sink.story = story
        known: Known | None = None
        plan: Plan | None = None
        peeked: Peeked | None = None
        try:
            # identify; policy, as far as headers tell
            again: Any = None if (seen := call.seen) is None else seen.get(Known) or self._returned(call, seen)
            if again and again.common.generation is generation and rooms.identify.is_met(again.met):
                known = again
            else:
                known = await self._known(call, generation, story)
            shared = ready.common = known.common
            caller = story.caller = known.caller
            story.operation = shared.op.name
            rooms.store.peek(known.claims)  # what is exhausted is refused before the body is read
            if shared.is_json:
                ready.raw = body.at_once(shared.max_body) or await body.read(shared.max_body)
                ready.plain = _plain(shared, ready.raw) if shared.coding else ready.raw
                asked = ready.asked = shared.dialect.read_asked(shared.op, read_json(ready.plain))
            else:
                peeked = Peeked(body)
                await self._read(known, ready, peeked)
                asked = ready.asked
            story.streamed, model = asked.stream, asked.model or shared.op.model
            plan = known.plan if model == known.model else known.plans.get(model)
            if plan is None:
                story.model = model
                plan = plan_of(known, shared, call, caller, model, self._user(call, shared, asked.user))
            if plan.degrading:
                plan = self._degraded(known, ready, plan)
            ready.plan = plan
            # admit
            if not rooms.store.enter_at_once(call.uid, plan.claims):
                await rooms.store.enter(call.uid, plan.claims)
            # guard
            if plan.guard.entities:
                self._guard(ready, plan.guard, story)
            # forward, meter, record
            ready.size = _most(peeked, plan, shared) if ready.plain is None else len(ready.plain)
            await self._forwarding.run(ready, sink, story)
        except BaseException as error:
            if not self._is_told(error, sink, story, known, plan):
                raise
        finally:
            sink.story = None
            if peeked is not None:
                peeked.close()
            rooms.books.close(story)

    def _is_told(self, error: BaseException, sink: Sink, story: Story, known: Known | None, plan: Plan | None) -> bool:
        """The call ended otherwise than well, and client and story are told so, by what was known of it until then. False: who runs the
        call is to hear of it too."""
        if known is not None:
            story.speaks, story.claims = known.common.speaks, known.claims
            story.model = story.model or known.common.op.model
        if plan is not None:
            story.model, story.claims = plan.model, plan.claims
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

    def _user(self, call: Call, common: Common, said: str | None) -> str | None:
        """The end user, as far as the headers tell, or what the body `said`. What is kept of a head and a caller does not go by it."""
        callers = common.generation.rules.callers
        return end_user(call.fields, said, callers, self._rooms.secret) if callers.end_user else None

    def _degraded(self, known: Known, ready: Ready, plan: Plan) -> Plan:
        """The plan, or that of a cheaper model."""
        common, call, asked = known.common, ready.call, ready.asked
        if ready.raw is None and common.op.model is None:  # of a body that streams through, no name is changed
            return plan
        facts = facts_of(common, call, known.caller, asked.model or common.op.model, self._user(call, common, asked.user))
        return degraded(common.generation.rules, self._rooms.store, facts, plan, lambda: _may_cost(ready, plan))

    async def _read(self, known: Known, ready: Ready, body: Peeked) -> None:
        """What a matching rule must read is held in memory; what need not be held streams through."""
        common, call = known.common, ready.call
        op, rules = common.op, common.generation.rules
        facts = facts_of(common, call, known.caller, op.model, self._user(call, common, None))
        ready.asked, ready.is_json = Asked(model=op.model), False
        if body.length == 0:
            ready.raw = ready.plain = b""
        elif op.body != "json" and not (_may_be_json(call, op) and rules.needs_body(facts)):
            await self._peek(common, ready, body, facts)
        else:
            ready.raw = await body.read(common.max_body)
            try:
                ready.plain = _plain(common, ready.raw)
                ready.asked, ready.is_json = common.dialect.read_asked(op, read_json(ready.plain)), True
            except Refusal:  # a path we do not know may take what we cannot read
                if op.body == "json" or (op.name == "other" and rules.must_read(facts)):
                    raise

    async def _peek(self, common: Common, ready: Ready, body: Peeked, facts: Facts) -> None:
        """A body that streams through. Of a form, the model's name is looked for in its beginning: prices and limits go by it."""
        op, rules, kind = common.op, common.generation.rules, ready.call.fields.get("content-type", "")
        ready.upload = body
        if op.name in FORMLESS or "multipart/form-data" not in kind.lower():
            return
        model, server = FormField(kind, "model"), rules.server
        if not rules.must_read(facts):
            await body.head(model, server.max_upload, PEEK_BYTES, PEEK_S)
        elif not await body.head(model, server.max_upload, server.max_body, None):
            text = f"the form names no model in its first {server.max_body} bytes, and a policy goes by it; put it before the file"
            raise Refusal(413, "too_large", text, should_retry=False, close=True)
        ready.asked = Asked(model=model.value or op.model)

    def _guard(self, ready: Ready, rules: GuardRules, story: Story) -> None:
        """Masks, flags or blocks what must not leave. A masked body goes out without the coding it came in."""
        if not ready.asked.is_usual:
            _guard_unread(ready, rules, story)
            if not ready.is_json:
                return
        plain: Any = ready.plain  # there is one: it is JSON
        sight = rules.sight
        families = sight[0].look(plain) if sight else ()
        if sight and not families:  # as nearly always
            return
        seen = inspect(plain, ready.common.surface, rules, families)
        if seen is not None:
            story.found.update(seen.found)
            if seen.body != ready.plain:
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
        story.status = sink.refuse(no, story.speaks or self._rooms.generation.rules.providers[story.call.route.provider].dialect, headers)

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


def _most(body: Peeked | None, plan: Plan, common: Common) -> int:
    """Bytes of a body that streams through, or is not read. Of one that does not say (chunked) a budget fears the most that is taken."""
    if body is not None and body.length is not None:
        return body.length
    return common.generation.rules.server.max_upload if plan.is_under_spend_limit else 0


def _plain(common: Common, raw: bytes) -> bytes:
    return decode(common.coding, raw, common.max_body) if common.coding else raw


def _guard_unread(ready: Ready, rules: GuardRules, story: Story) -> None:
    """What no text rule can read; of JSON on an unknown path, every text is inspected."""
    op, dialect = ready.common.op, ready.common.dialect
    if not ready.is_json:
        kinds: tuple[str, ...] = () if ready.raw == b"" else ("file",)
    else:
        kinds = () if op.name == "other" else dialect.uninspected(op, ready.asked)
    story.found.update(inspect_other(kinds, rules))


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
