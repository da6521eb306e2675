"""A plan is worked out once for a head, a caller and a model, and never mistaken for that of another call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.exchange import Call, Caller, Route
from proxy.meter.price import Prices, PriceTable
from proxy.planning import MAX_HEADS, MAX_MODELS, MAX_NAME, common, early, plan_of
from proxy.policy.build import compile_policy
from proxy.policy.read import read_policy
from proxy.rooms import Generation

TABLE = PriceTable.load(b'{"source": "", "released": ""}')
ANY = """
default_provider: openai
callers: {anonymous: free}
tiers: {free: {requests: 10/min}, gold: {requests: 99/min}}
"""


def generation(text: str = ANY) -> Generation:
    rules = compile_policy(read_policy(Path("p.yaml"), text), environ={}, base=Path(), generation=1)
    return Generation(rules, Prices(TABLE, (), rules.pricing))


def caller(name: str = "a", tier: str = "free") -> Caller:
    return Caller(name, "key", tier)


def call(kept: dict[object, object], peer: str = "192.0.2.1", **fields: str) -> Call:
    route = Route("openai", "/v1/chat/completions", "", "/v1/chat/completions")
    fields = {name.replace("_", "-"): value for name, value in fields.items()}
    return Call("slu-1", "slu-1", False, "POST", route, (), fields, peer, 0, 0.0, kept)


def planned(of: Generation, call: Call, caller: Caller, model: str = "gpt-4o", user: str | None = None):
    shared = common(of, call)
    return plan_of(early(shared, call, caller, user), shared, call, caller, model, user)


def test_calls_alike_have_the_same_plan_and_the_same_claims():
    of, kept, who = generation(), {}, caller()
    plans = [planned(of, call(kept), who) for _ in range(4)]
    assert plans[2] is plans[3]
    assert plans[0] == plans[3]


def test_another_caller_model_head_or_policy_has_a_plan_of_its_own():
    of, kept, who = generation(), {}, caller()
    known = [planned(of, call(kept), who) for _ in range(4)][-1]
    assert planned(of, call(kept), caller("b", "gold")).claims[0].limit.name == "tier gold"
    assert planned(of, call(kept), who, "gpt-5").model == "gpt-5"
    assert planned(of, call({}), who) == known
    other = generation(ANY.replace("10/min", "11/min"))
    assert planned(other, call(kept), who).claims[0].limit.requests[0].count == 11
    assert planned(of, call(kept), who).claims[0].limit.requests[0].count == 10


@pytest.mark.parametrize(
    ("limit", "one", "two"),
    [
        ("{name: x, match: {ip: 192.0.2.1}, requests: 1/min}", {"peer": "192.0.2.1"}, {"peer": "192.0.2.2"}),
        ("{name: x, per: ip, requests: 1/min}", {"peer": "192.0.2.1"}, {"peer": "192.0.2.2"}),
        ("{name: x, match: {not: {ip: 192.0.2.2}}, requests: 1/min}", {"peer": "192.0.2.1"}, {"peer": "192.0.2.2"}),
        ("{name: x, per: 'header:traceparent', requests: 1/min}", {"traceparent": "1"}, {"traceparent": "2"}),
        ("{name: x, per: 'header:X-Request-Id', requests: 1/min}", {"x_request_id": "1"}, {"x_request_id": "2"}),
    ],
)
def test_what_differs_between_calls_of_one_head_is_looked_at_each_time(limit, one, two):
    of, kept, who = generation(f"{ANY}limits: [{limit}]"), {}, caller()
    first = [planned(of, call(kept, **one), who) for _ in range(3)][-1]
    second = [planned(of, call(kept, **two), who) for _ in range(3)][-1]
    assert first.claims != second.claims


def test_an_end_user_of_the_body_is_looked_at_each_time():
    text = (
        ANY.replace("anonymous: free", "anonymous: free, end_user: ['body:user']") + "limits: [{name: x, per: end_user, requests: 1/min}]"
    )
    of, kept, who = generation(text), {}, caller()
    claims = [planned(of, call(kept), who, user=user).claims[-1].account for user in ("ann", "ann", "ann", "bob")]
    assert claims == ["end_user=ann"] * 3 + ["end_user=bob"]


def test_what_is_kept_of_a_caller_is_bounded():
    of, who = generation(), caller()
    for _ in range(3 * MAX_HEADS):
        kept: dict[object, object] = {}
        for number in range(3 * MAX_MODELS):
            planned(of, call(kept), who, f"model-{number}")
    assert len(who.kept) <= MAX_HEADS
    assert all(len(known.plans) <= MAX_MODELS for known in who.kept.values())


@pytest.mark.parametrize("models", [("gpt-4o", "gpt-5", None), (None, "gpt-5", "gpt-4o"), ("m" * (MAX_NAME + 1), "gpt-4o", "gpt-5")])
def test_of_each_model_the_same_plan_is_found_whichever_came_first(models):
    of, kept, who = generation(), {}, caller()
    for _ in range(3):
        plans = [planned(of, call(kept), who, model) for model in models]
    for model, plan in zip(models, plans, strict=True):
        again = planned(of, call(kept), who, model)
        assert again.model == model and (again is plan) == (len(model or "") <= MAX_NAME)


def test_of_a_head_that_was_seen_once_nothing_is_kept():
    of, who = generation(), caller()
    for _ in range(10):
        planned(of, call({}), who)
    assert not who.kept


def test_a_caller_replaced_keeps_nothing_of_the_one_before():
    of, kept, who = generation(), {}, caller()
    for _ in range(3):
        planned(of, call(kept), who)
    assert planned(of, call(kept), replace(who, tier="gold", kept={})).claims[0].limit.name == "tier gold"


def test_a_long_name_of_a_model_is_not_remembered():
    of, kept, who = generation(), {}, caller()
    for _ in range(5):
        assert planned(of, call(kept), who, "m" * (MAX_NAME + 1)).model == "m" * (MAX_NAME + 1)
    assert not [known for known in who.kept.values() if known.plan or known.plans]
