"""Which plan a call has: worked out once for a head, a caller and a model, where the policy looks at nothing else. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from proxy.dialect import dialect_of, spoken
from proxy.exchange import Call, Caller, RawHeaders
from proxy.forward.shape import Lines, Shaping
from proxy.listen.headers import forwardable, lower, narrowed_accept_encoding
from proxy.listen.heads import varies
from proxy.memo import the_one
from proxy.policy.plan import Claim, Facts, Plan
from proxy.rooms import Common, Generation

MAX_HEADS, MAX_MODELS = 8, 64  # of one caller, and of one of its heads: names of models come from outside
MAX_NAME = 256  # characters of a model's name that is remembered
COMMON = "what calls with this head have in common"  # in Call.kept; of another generation, perhaps


@dataclass(slots=True, eq=False)
class Known:
    """What is known of a caller who sends one head."""

    common: Common
    caller: Caller
    claims: tuple[Claim, ...]  # those that need no body
    met: object = None  # why it is this caller, as long as that holds: see `Identify.is_met`
    is_kept: bool = False  # for the caller's next call with this head
    model: str | None = None  # asked for first
    plan: Plan | None = None  # of calls for that model; None: there was none yet
    plans: dict[str | None, Plan] = field(default_factory=dict)  # by the model asked for, of calls for others


def common(generation: Generation, call: Call) -> Common:
    """Of a head that the edge has seen before, the same each time: hung onto what is kept of it."""
    known: Any = call.kept.get(COMMON)
    if known is not None and known.generation is generation:
        found: Common = known
        return found
    rules, where = generation.rules, call.route
    provider = rules.providers[where.provider]
    dialect = dialect_of(provider.dialect)
    op = dialect.operation(call.method, where.path, where.query)
    accepted = narrowed_accept_encoding(call.fields.get("accept-encoding"))
    shaping = Shaping(call, op, provider, travelling(call.headers), None if accepted is None else accepted.encode("latin-1"))
    may_keep, coding = not any(map(_differs, rules.reads)), call.fields.get("content-encoding", "")
    new = Common(generation, provider, dialect, op, spoken(provider.dialect, op), shaping, may_keep, coding)
    call.kept[COMMON] = new
    return new


def travelling(headers: RawHeaders) -> Lines:
    """Those that may travel on; of what varies from call to call only the place is kept."""
    travels = set(map(id, forwardable(headers)))
    lines = [(at, line) for at, line in enumerate(headers) if id(line) in travels]
    return tuple([(line[0], at if varies(lower(line[0])) else line[1]) for at, line in lines])


def _differs(fact: str) -> bool:
    """May it differ between calls of one head and one caller? `fact` is a key of `match:`."""
    kind, _, name = fact.partition(":")
    return kind in ("ip", "end_user") or (kind == "header" and varies(name.lower()))


def facts_of(common: Common, call: Call, caller: Caller, model: str | None, end_user: str | None) -> Facts:
    where, op = call.route, common.op
    return Facts(caller, where.provider, op.name, call.method, where.path, call.peer, call.fields, model, end_user, op.is_billed)


def early(common: Common, call: Call, caller: Caller, end_user: str | None) -> Known:
    """What is known before the body is read. Raises Refusal 403 `unknown_tier`, `unknown_team`, 400 `missing_end_user`."""
    known = caller.kept.get(common)
    if isinstance(known, Known):
        return known
    known = Known(common, caller, common.generation.rules.early(facts_of(common, call, caller, common.op.model, end_user)))
    if common.may_keep and common.is_met:
        if len(caller.kept) >= MAX_HEADS:
            caller.kept.clear()
        caller.kept[common] = known
        known.is_kept = True
    common.is_met = True
    return known


def plan_of(known: Known, common: Common, call: Call, caller: Caller, model: str | None, end_user: str | None) -> Plan:
    """The whole plan. Raises Refusal 403 `not_allowed`, 404 `unknown_provider` and those of `early`."""
    plan = known.plan if model == known.model else known.plans.get(model)
    if plan is not None:
        return plan
    may_keep = known.is_kept and (model is None or len(model) <= MAX_NAME)
    if may_keep and model is not None:
        model = the_one(model)
    plan = common.generation.rules.plan(facts_of(common, call, caller, model, end_user))
    if may_keep:
        if plan.claims == known.claims:
            plan = replace(plan, claims=known.claims)  # the state finds by identity what they count on
        if known.plan is None:
            known.model, known.plan = model, plan
        else:
            if len(known.plans) >= MAX_MODELS:
                known.plans.clear()
            known.plans[model] = plan
    return plan
