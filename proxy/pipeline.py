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
from proxy.guard.vault import Vault
from proxy.identify.who import REVOKED_KEY, end_user
from proxy.listen.peek import Peeked
from proxy.listen.reply import Refused, reply_headers
from proxy.planning import Known, common, early, facts_of, plan_of
from proxy.policy.build import UNTEXTUAL
from proxy.policy.plan import Facts, Plan, Rulebook
from proxy.ports import Body, Sink
from proxy.refusal import ClientGone, Refusal, UpstreamCut
from proxy.rooms import Common, Held, Ready, Rooms
from proxy.stream.body import read_json
from proxy.stream.coding import decode
from proxy.stream.multipart import FormField
from proxy.under_way import REVOKED

FORMLESS = frozenset({"files", "batches", "models"})  # operations whose forms name no model
PEEK_BYTES, PEEK_S = 64 * 1024, 1.0
ANY_TEXT = ("**",)  # of a JSON body whose operation we do not know: every string may be text


class Pipeline:
    """All calls share it; nothing of one call is kept here."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._forwarding = Forwarding(rooms)

    async def run(self, call: Call, body: Body, sink: Sink) -> None:
        """One call from its headers to its end. Raises only CancelledError."""
        rooms = self._rooms
        generation = rooms.current()
        story = Story(call, generation.rules.generation)
        rooms.under_way.begin(story)
        peeked: Peeked | None = None
        try:
            shared = common(generation, call)
            if shared.op.body != "json" or shared.op.name == "other":
                peeked = Peeked(body)
            ready = await self._ready(shared, call, body, peeked, story)
            await self._forwarding.run(ready, sink, story)
        except Refusal as no:
            self._refuse(no, sink, story)
        except ClientGone:
            story.end = "client_gone"
        except UpstreamCut:
            story.end = "upstream_cut"  # the sink was told where it happened
        except asyncio.CancelledError:
            self._stopped(sink, story)
            raise
        except Exception as error:
            rooms.log.failure(call.id, error)
            self._refuse(Refusal(500, "internal", _INTERNAL, should_retry=False), sink, story)
        finally:
            rooms.under_way.end(story)
            if peeked is not None:
                peeked.close()
            for try_ in story.tries:
                if try_.row is None:
                    try_.end = story.end
            rooms.books.close(story)

    async def _ready(self, common: Common, call: Call, body: Body, peeked: Peeked | None, story: Story) -> Ready:
        rooms, op, rules = self._rooms, common.op, common.generation.rules
        callers = rules.callers
        # identify
        story.speaks, story.operation, story.model = common.speaks, op.name, op.model
        caller = story.caller = await rooms.identify.who(call, callers)
        # policy, as far as headers tell; what is exhausted is refused before the body is read
        user = end_user(call.fields, None, callers, rooms.secret) if callers.end_user else None
        found: Any = caller.kept.get(common)
        known: Known = found or early(common, call, caller, user)
        story.claims = known.claims
        rooms.store.peek(known.claims)
        if peeked is None:
            raw = await body.read(rules.server.max_body)
            held = _held(common, raw, _plain(common, call, raw) if "content-encoding" in call.fields else raw)
        else:
            held = await self._read(common, call, peeked, facts_of(common, call, caller, op.model, user))
        model = story.model = held.asked.model or op.model
        story.streamed = held.asked.stream
        if callers.end_user:
            user = end_user(call.fields, held.asked.user, callers, rooms.secret)
        plan = known.plans.get(model) or plan_of(known, common, call, caller, model, user)
        if plan.degrading and (held.raw is not None or op.model is not None):  # of a body that streams through, no name is changed
            plan = self._degraded(common, plan, facts_of(common, call, caller, model, user), held, call.at_ns)
        story.model, story.claims = plan.model, plan.claims
        # admit
        await rooms.store.enter(call.uid, plan.claims)
        # guard
        vault: Vault | None = None
        if plan.guard.entities:
            held, vault = self._guard(held, common, plan, story)
        size = _most(peeked, plan, rules) if held.plain is None else len(held.plain)
        return Ready(call, common, plan, held, size, vault)

    def _degraded(self, common: Common, plan: Plan, facts: Facts, held: Held, at_ns: int) -> Plan:
        return degraded(common.generation.rules, self._rooms.store, facts, plan, lambda: _may_cost(common, plan, held, at_ns))

    async def _read(self, common: Common, call: Call, body: Peeked, facts: Facts) -> Held:
        """What a matching rule must read is held in memory; what need not be held streams through."""
        op, rules = common.op, common.generation.rules
        if body.length == 0:
            return Held(b"", b"", None, Asked(model=op.model))
        if op.body != "json" and not (_may_be_json(call, op) and rules.needs_body(facts)):
            return await self._peeked(call, body, op, rules, facts)
        raw = await body.read(rules.server.max_body)
        plain: bytes | None = None
        try:
            plain = _plain(common, call, raw)
            return _held(common, raw, plain)
        except Refusal:
            if op.body == "json" or (op.name == "other" and rules.must_read(facts)):
                raise
            return Held(raw, plain, None, Asked(model=op.model))  # a path that we do not know may take what we cannot read

    async def _peeked(self, call: Call, body: Peeked, op: Operation, rules: Rulebook, facts: Facts) -> Held:
        """A body that streams through. Of a form, the model's name is looked for in its beginning: prices and limits go by it."""
        kind = call.fields.get("content-type", "")
        if op.name in FORMLESS or "multipart/form-data" not in kind.lower():
            return Held(None, None, None, Asked(model=op.model), body)
        model, server = FormField(kind, "model"), rules.server
        if not rules.must_read(facts):
            await body.head(model, server.max_upload, PEEK_BYTES, PEEK_S)
        elif not await body.head(model, server.max_upload, server.max_body, None):
            text = f"the form names no model in its first {server.max_body} bytes, and a policy goes by it; put it before the file"
            raise Refusal(413, "too_large", text, should_retry=False, close=True)
        return Held(None, None, None, Asked(model=model.value or op.model), body)

    def _guard(self, held: Held, common: Common, plan: Plan, story: Story) -> tuple[Held, Vault | None]:
        """Masks, flags or blocks what must not leave. A masked body goes out without the coding it came in."""
        rules, op, dialect = plan.guard, common.op, common.dialect
        if held.plain is None or held.doc is None:
            if held.raw != b"":
                story.found.update(inspect_other(("file",), rules))
            return held, None
        surface: tuple[str, ...] = ()
        if op.name != "other":  # of JSON on an unknown path, every text is inspected
            surface = dialect.surface(op)
            if kinds := dialect.uninspected(op, held.asked):
                story.found.update(inspect_other(kinds, rules))
        inspected = inspect(held.plain, surface or ANY_TEXT, rules)
        if inspected.found:
            story.found.update(inspected.found)
        if inspected.body is held.plain or inspected.body == held.plain:
            return held, None
        masked = Held(inspected.body, inspected.body, held.doc, held.asked, is_reworded=True)
        return masked, inspected.vault if rules.restore else None

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


def _held(common: Common, raw: bytes, plain: bytes) -> Held:
    """Raises Refusal 400."""
    doc = read_json(plain)
    return Held(raw, plain, doc, common.dialect.read_asked(common.op, doc))


def _may_cost(common: Common, plan: Plan, held: Held, at_ns: int) -> int:
    """Nano-dollars, at most; 0 where there is no price."""
    try:
        first, asked, prices = plan.targets[0], held.asked, common.generation.prices
        return quoted(prices, plan, first.provider, first.model, common.op, asked, len(held.plain or b""), at_ns, asked.tier)[2]
    except Refusal:
        return 0


def _sent(story: Story) -> int:
    return sum(try_.kind != "refusal" for try_ in story.tries)


_INTERNAL = "an error inside Sluice; its log names it by this request id"
