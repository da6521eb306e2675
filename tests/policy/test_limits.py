import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.plan import Rate, Spend
from proxy.refusal import Refusal

TIERS = """
tiers:
  free: {requests: 10/min, tokens: 10k/min, spend: [$5/day, $50/month], concurrency: 2}
  open: {}
teams:
  finance: {spend: $2000/month, contact: '#finops', at_limit: {status: 429}}
  medical: {}
"""


def names(claims):
    return [(claim.limit.name, claim.account) for claim in claims]


def test_a_tier_is_counted_per_caller_with_all_its_numbers(rulebook, facts):
    (claim,) = rulebook(TIERS).plan(facts("bot", tier="free")).claims
    assert claim.key == "tier free|caller=bot"
    assert claim.limit.requests == (Rate(10, 60),) and claim.limit.tokens == (Rate(10_000, 60),)
    assert claim.limit.spend == (Spend(5 * 10**9, "day"), Spend(50 * 10**9, "month"))
    assert (claim.limit.concurrency, claim.limit.is_shared, claim.limit.money_status) == (2, False, 402)


def test_a_tier_without_numbers_and_no_tier_claim_nothing(rulebook, facts):
    assert rulebook(TIERS).plan(facts("bot", tier="open")).claims == ()
    assert rulebook(TIERS).plan(facts("bot")).claims == ()


def test_an_override_replaces_one_number_and_keeps_the_rest(rulebook, facts):
    book = rulebook(TIERS + "callers: {keys: [{name: a, key: env:A, tier: free, overrides: {requests: 120/min, concurrency: off}}]}")
    record = book.callers.tokens[0].record
    (claim,) = book.plan(facts("a", tier="free", overrides=record.overrides)).claims
    assert claim.limit.requests == (Rate(120, 60),) and claim.limit.concurrency is None and claim.limit.tokens == (Rate(10_000, 60),)
    assert claim.key == "tier free|caller=a"


def test_an_override_limits_a_caller_without_tier(rulebook, facts):
    (claim,) = rulebook().plan(facts("a", overrides={"requests": (Rate(1, 60),)})).claims
    assert claim.key == "tier (none)|caller=a"


def test_a_team_shares_one_account_and_names_its_contact(rulebook, facts):
    book = rulebook(TIERS)
    (claim,) = book.plan(facts("a", team="finance")).claims
    assert claim.key == "team finance|team=finance"
    assert (claim.limit.is_shared, claim.limit.contact, claim.limit.money_status) == (True, "#finops", 429)
    assert book.plan(facts("a", team="medical")).claims == ()


@pytest.mark.parametrize("ask", ["early", "plan"])
def test_an_unknown_tier_or_team_is_refused(rulebook, facts, ask):
    book = rulebook(TIERS)
    for who, code in (({"tier": "gone"}, "unknown_tier"), ({"team": "gone"}, "unknown_team")):
        with pytest.raises(Refusal) as no:
            getattr(book, ask)(facts("a", **who))
        assert (no.value.status, no.value.code, no.value.should_retry) == (403, code, False)


PER = """
callers: {end_user: [header:x-user-id], jwt: [{name: corp, issuer: i, jwks: https://x.example}]}
limits: [{name: l, per: PER, requests: 1/min, missing: shared}]
"""


@pytest.mark.parametrize(
    ("per", "account", "is_shared", "is_unbounded"),
    [
        ("caller", "caller=a", False, False),
        ("key", "key=k", False, False),
        ("team", "team=t", True, False),
        ("tier", "tier=f", True, False),
        ("provider", "provider=openai", True, False),
        ("model", "model=gpt-4o", True, False),
        ("ip", "ip=127.0.0.1", True, True),
        ("end_user", "end_user=hash", True, True),
        ("header:X-Tenant", "header:X-Tenant=acme", True, True),
        ("claim:org", "claim:org=o", True, False),
        ("total", "total", True, False),
        ("instance", "instance", True, False),
        ("[team, end_user]", "team=t,end_user=hash", True, True),
        ("[caller, model]", "caller=a,model=gpt-4o", False, False),
    ],
)
def test_a_limit_is_counted_per_what_it_says(rulebook, facts, per, account, is_shared, is_unbounded):
    import dataclasses

    call = facts("a", key="k", team="t", tier="f", claims={"org": "o"}, headers={"x-tenant": "acme"})
    book = rulebook("tiers: {f: {}}\nteams: {t: {}}" + PER.replace("PER", per))
    (claim,) = book.plan(dataclasses.replace(call, end_user="hash")).claims
    assert (claim.limit.name, claim.account) == ("limit l", account)
    assert (claim.limit.is_shared, claim.limit.is_unbounded) == (is_shared, is_unbounded)


@pytest.mark.parametrize("per", ["end_user", "header:x-tenant", "claim:org"])
def test_what_a_request_must_carry_is_denied_or_shared_as_the_limit_says(rulebook, facts, per):
    text = PER.replace("PER", per)
    assert names(rulebook(text).plan(facts("a")).claims) == [("limit l", f"{per}=(none)")]
    for denying in (text.replace("missing: shared", "missing: deny"), text.replace(", missing: shared", "")):
        with pytest.raises(Refusal) as no:
            rulebook(denying).plan(facts("a"))
        assert (no.value.status, no.value.code, no.value.limit) == (400, "missing_end_user", "limit l")
        assert per.split(":")[-1].replace("_", " ") in no.value.message


def test_what_is_no_business_of_the_request_is_never_missing(rulebook, facts):
    book = rulebook("limits: [{name: l, per: [team, tier], requests: 1/min}]")
    assert names(book.plan(facts("a")).claims) == [("limit l", "team=(none),tier=(none)")]


@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_two_callers_never_share_an_account_by_their_spelling(one, two, three, four):
    from proxy.policy.limits import Limits
    from proxy.policy.model import PolicyModel

    entry = {"name": "l", "per": ("header:a", "header:b"), "requests": "1/min", "missing": "shared"}
    limits = Limits(PolicyModel.model_validate({"limits": (entry,)}), moves=False)
    accounts = [limits.claims(_call({"a": a, "b": b}), early=False)[0].account for a, b in ((one, two), (three, four))]
    same = [(a or "(none)", b or "(none)") for a, b in ((one, two), (three, four))]
    assert (accounts[0] == accounts[1]) == (same[0] == same[1])
    assert all("|" not in account and "\n" not in account for account in accounts)


def _call(headers):
    from proxy.exchange import Caller
    from proxy.policy.plan import Facts

    return Facts(Caller("a", "key"), "openai", "chat", "POST", "/", "::1", headers)


def test_a_long_name_becomes_a_short_account(rulebook, facts):
    book = rulebook(PER.replace("PER", "header:x-t"))
    accounts = {book.plan(facts("a", headers={"x-t": "v" * 5000 + end})).claims[0].account for end in "12"}
    assert len(accounts) == 2 and all(len(account) < 80 for account in accounts)


def test_pass_through_accounts_are_unbounded_and_those_of_a_team_are_not(rulebook, facts):
    book = rulebook(TIERS + "limits: [{name: l, per: total, requests: 1/min}]")
    tier, limit = book.plan(facts("pass-through:1", kind="pass_through", tier="free")).claims
    assert tier.limit.is_unbounded and not limit.limit.is_unbounded


def test_early_gives_what_headers_decide_and_plan_gives_all(rulebook, facts):
    book = rulebook(
        """
callers: {end_user: [body:user]}
limits:
  - {name: a, match: {caller: x}, requests: 1/min}
  - {name: b, match: {model: gpt-4o}, requests: 1/min}
  - {name: c, per: [end_user], requests: 1/min, missing: shared}
  - {name: d, match: {not: {model: y}}, requests: 1/min}
  - {name: e, per: model, requests: 1/min}
  - {name: f, match: {path: /v1/chat*}, requests: 1/min}
"""
    )
    assert [claim.limit.name for claim in book.early(facts("x", model=None))] == ["limit a", "limit f"]
    assert [claim.limit.name for claim in book.plan(facts("x")).claims] == [f"limit {name}" for name in "abcdef"]
    assert [claim.limit.name for claim in book.plan(facts("z", model="y")).claims] == [f"limit {name}" for name in "cef"]


def test_end_users_of_a_header_are_known_early(rulebook, facts):
    assert len(rulebook(PER.replace("PER", "end_user")).early(facts("a"))) == 1


def test_limits_of_a_provider_wait_where_a_rule_may_move_the_call(rulebook, facts):
    limits = "limits: [{name: l, match: {provider: openai}, requests: 1/min}]\n"
    assert len(rulebook(limits).early(facts("a"))) == 1
    assert rulebook(limits + "rules: [{match: {team: t}, send_to: openai/x}]\nteams: {t: {}}").early(facts("a")) == ()


def test_a_call_meets_only_the_limits_of_its_own_caller(rulebook, facts):
    text = "limits:\n" + "".join(f"  - {{name: l{n}, match: {{caller: c{n}}}, requests: 1/min}}\n" for n in range(1000))
    book = rulebook(text + "  - {name: all, requests: 5/min}\n")
    assert [claim.limit.name for claim in book.plan(facts("c500")).claims] == ["limit l500", "limit all"]


def test_a_call_meets_only_the_limits_that_cover_its_model(rulebook, facts):
    text = "limits:\n" + "".join(f"  - {{name: l{n}, match: {{model: [m{n}, m{n}-2024-08-06]}}, requests: 1/min}}\n" for n in range(300))
    book = rulebook(text + "  - {name: all, match: {model: 'm5*'}, requests: 5/min}\n")
    assert [claim.limit.name for claim in book.plan(facts(model="m55-2024-08-06")).claims] == ["limit l55", "limit all"]
    assert book.plan(facts(model=None, call={"operation": "files"})).claims == ()


def test_the_status_of_money_is_that_of_the_rule_else_the_limit_else_the_policy(rulebook, facts):
    text = """
at_limit: {status: 429}
teams: {t: {}, u: {}}
limits:
  - {name: own, spend: $1/day, at_limit: {status: 402}}
  - {name: plain, spend: $1/day}
rules: [{match: {team: t}, at_limit: {status: 402}}]
"""
    book = rulebook(text)
    assert [claim.limit.money_status for claim in book.plan(facts("a", team="u")).claims] == [402, 429]
    assert [claim.limit.money_status for claim in book.plan(facts("a", team="t")).claims] == [402, 402]


def test_each_key_of_at_limit_is_that_of_the_rule_else_the_limit_else_the_policy(rulebook, facts):
    text = """
at_limit: {stop_streams: true, degrade: {from: 50%, models: {a: b}}}
tiers: {free: {spend: $1/day}}
teams: {t: {spend: $1/day, at_limit: {degrade: off}}, u: {}}
limits: [{name: own, spend: $1/day, at_limit: {stop_streams: false}}]
rules: [{match: {caller: ruled}, at_limit: {stop_streams: true, degrade: {models: {c: d}}}}]
"""
    book = rulebook(text)
    plan = book.plan(facts("x", tier="free", team="t"))
    assert [(claim.limit.stop_streams, claim.limit.degrade and claim.limit.degrade.from_share) for claim in plan.claims] == [
        (True, 0.5), (True, None), (False, 0.5),
    ]  # fmt: skip
    assert [claim.limit.name for claim in plan.stopping] == ["tier free", "team t"]
    assert [claim.limit.name for claim in plan.degrading] == ["tier free", "limit own"]
    ruled = book.plan(facts("ruled", tier="free", team="t"))
    assert [(claim.limit.stop_streams, claim.limit.degrade.from_share, dict(claim.limit.degrade.models)) for claim in ruled.claims] == [
        (True, 0.9, {"c": "d"})
    ] * 3
    assert hash(ruled.claims[0]) == hash(book.plan(facts("ruled", tier="free", team="t")).claims[0])


def test_a_degraded_plan_goes_where_the_call_would_have_gone_with_another_model(rulebook, facts):
    text = """
providers: {eu: {dialect: azure-openai, url: 'https://x.openai.azure.com', region: eu, models: {gpt-4o-mini: small}}}
at_limit: {degrade: {models: {gpt-4o: gpt-4o-mini, o3: o4-mini}}}
limits: [{name: purse, spend: $1/day}, {name: mini, match: {model: gpt-4o-mini, provider: eu}, requests: 1/day}]
fallback: {gpt-4o: [openai/gpt-4.1], gpt-4o-mini: [openai/gpt-4.1-mini]}
rules: [{match: {team: t}, send_to: eu/gpt-4o}, {match: {caller: bound}, allow: {models: [gpt-4o]}}]
teams: {t: {}}
"""
    book = rulebook(text)

    def degraded(reached=("limit purse",), **call):
        plan = book.plan(facts("a", **call)) if "caller" not in call else book.plan(facts(**call))
        return book.degraded(facts(**{"caller": "a", **call}), plan, reached)

    plan = degraded(team="t")
    assert [(one.provider.name, one.model, one.theirs) for one in plan.targets] == [
        ("eu", "gpt-4o-mini", "small"), ("openai", "gpt-4.1-mini", "gpt-4.1-mini"),
    ]  # fmt: skip
    assert [claim.limit.name for claim in plan.claims] == ["limit purse", "limit mini"]
    assert plan.model == "gpt-4o", "what was asked for, so that the reply can say what answered"
    assert degraded(model="gpt-4o-2024-08-06").targets[0].model == "gpt-4o-mini"
    for same in (degraded(()), degraded(model="gpt-4.1"), degraded(caller="bound")):
        assert same.targets[0].model in ("gpt-4o", "gpt-4.1")


def test_zero_denies_and_off_lifts(rulebook, facts):
    book = rulebook("tiers: {z: {requests: 0, spend: 0, concurrency: 0}, o: {requests: off, spend: false, concurrency: off}}")
    limit = book.plan(facts("a", tier="z")).claims[0].limit
    assert (limit.requests, limit.spend, limit.concurrency) == ((Rate(0, 60),), (Spend(0, "total"),), 0)
    assert book.plan(facts("a", tier="o")).claims == ()
