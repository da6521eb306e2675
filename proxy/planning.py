"""Which plan a call has: worked out once for a head, a caller and a model, where the policy looks at nothing else. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.dialect import dialect_of, spoken
from proxy.dialect.wire import Dialect, Operation
from proxy.exchange import Call, Caller
from proxy.listen.heads import varies
from proxy.policy.plan import Claim, Facts, Plan, Provider
from proxy.rooms import Generation

MAX_HEADS, MAX_MODELS = 8, 64  # of one caller, and of one of its heads: names of models come from outside
MAX_NAME = 256  # characters of a model's name that is remembered
_PLACE = "what calls with this head have in common"  # in Call.kept


@dataclass(slots=True, eq=False)
class Common:
    """What all calls with one head have in common, under one generation of the policy."""

    generation: Generation
    provider: Provider
    dialect: Dialect
    op: Operation
    speaks: str  # the wire format that the caller speaks
    may_keep: bool  # the policy looks at nothing that differs between calls of one head and one caller
    is_met: bool = False  # by a second call: what is worked out from it is worth keeping


@dataclass(slots=True)
class _Known:
    """What is known of a caller who sends one head."""

    early: tuple[Claim, ...]
    plans: dict[str | None, Plan] = field(default_factory=dict)  # by the model asked for


def common(generation: Generation, call: Call) -> Common:
    """Of a head that the edge has seen before, the same each time."""
    known = call.kept.get(_PLACE)
    if isinstance(known, Common) and known.generation is generation:
        known.is_met = True
        return known
    rules, where = generation.rules, call.route
    provider = rules.providers[where.provider]
    dialect = dialect_of(provider.dialect)
    op = dialect.operation(call.method, where.path, where.query)
    known = Common(generation, provider, dialect, op, spoken(provider.dialect, op), not any(map(_differs, rules.reads)))
    call.kept[_PLACE] = known
    return known


def _differs(fact: str) -> bool:
    """May it differ between calls of one head and one caller? `fact` is a key of `match:`."""
    kind, _, name = fact.partition(":")
    return kind in ("ip", "end_user") or (kind == "header" and varies(name.lower()))


def facts_of(common: Common, call: Call, caller: Caller, model: str | None, end_user: str | None) -> Facts:
    where, op = call.route, common.op
    return Facts(caller, where.provider, op.name, call.method, where.path, call.peer, call.fields, model, end_user, op.is_billed)


def early(common: Common, call: Call, caller: Caller, end_user: str | None) -> tuple[Claim, ...]:
    """The claims that need no body. Raises Refusal 403 `unknown_tier`, `unknown_team`, 400 `missing_end_user`."""
    known = caller.kept.get(common)
    if isinstance(known, _Known):
        return known.early
    claims = common.generation.rules.early(facts_of(common, call, caller, common.op.model, end_user))
    if common.may_keep and common.is_met:
        if len(caller.kept) >= MAX_HEADS:
            caller.kept.clear()
        caller.kept[common] = _Known(claims)
    return claims


def plan_of(common: Common, call: Call, caller: Caller, model: str | None, end_user: str | None) -> Plan:
    """The whole plan. Raises Refusal 403 `not_allowed`, 404 `unknown_provider` and those of `early`."""
    known = caller.kept.get(common)
    if not isinstance(known, _Known) or (model is not None and len(model) > MAX_NAME):
        return common.generation.rules.plan(facts_of(common, call, caller, model, end_user))
    plan = known.plans.get(model)
    if plan is None:
        plan = common.generation.rules.plan(facts_of(common, call, caller, model, end_user))
        if len(known.plans) >= MAX_MODELS:
            known.plans.clear()
        known.plans[model] = plan
    return plan
