from pathlib import Path

import pytest

from proxy.policy.build import compile_policy
from proxy.policy.explain import explain, guard_text, money, numbers_text
from proxy.policy.plan import GuardRules, Limit
from proxy.policy.read import read_policy

TEXT = """
providers:
  openai: {key: env:K, headers: {set: {X-A: b}, remove: [x-user-id]}}
  azure: {url: 'https://x.openai.azure.com', models: {gpt-4o: prod}}
  lan: {dialect: openai, url: 'http://10.0.0.1', allow_private: true}
callers:
  anonymous: free
  default_tier: free
  keys:
    - {name: a, key: env:A, team: t, overrides: {requests: 120/min, tokens: 5k/min, concurrency: off}, allow: {providers: [openai, azure]}}
    - {name: own, key: env:B, own_provider_key: openai, tier: pro}
  jwt: [{name: corp, issuer: i, secret: env:LONG, claims: {tier: plan, team: org}, allow: {models: [gpt-*]}}]
tiers: {free: {requests: 10/min, tokens: 10k/min, spend: [$5/day, $0.5/month], concurrency: 2}, pro: {}}
teams: {t: {spend: $2000/month, allow: {regions: [eu]}}, u: {}}
limits:
  - {name: x, match: {model: 'gpt-4o', not: {tier: pro}}, per: [team, model], requests: 20/min, missing: shared}
  - {name: y, match: {caller: a}, requests: 1/min}
  - {name: z, per: instance, concurrency: 5}
  - {name: w, match: {team: u, tier: pro}, requests: 1/min}
guard: {pii: mask, on_error: pass, ignore: ['*@a.example'], uninspected: pass}
unknown_price: allow
fallback: {gpt-4o: [azure/gpt-4o]}
server: {hosts: off}
rules:
  - {match: {team: t}, guard: {pii: {email: flag}}, allow: {models: ['*']}}
  - {match: {team: u}, guard: off}
  - {match: {tier: pro}, send_to: openai/gpt-4o-mini}
  - {allow: {models: [gpt-4o]}}
"""
AT_LIMIT = """
at_limit: {degrade: {from: 75%, models: {gpt-4o: gpt-4o-mini}}}
teams: {t: {spend: $1/day, at_limit: {stop_streams: true}}}
"""
ENVIRON = {"K": "k", "A": "a", "B": "b", "LONG": "x" * 40}


@pytest.fixture
def explained(tmp_path):
    document = read_policy(None, TEXT)
    book = compile_policy(document, environ=ENVIRON, base=tmp_path, generation=1)
    return explain(book, document, ["gpt-4o", "gpt-4o-mini", "gpt-4o-2024-08-06"])


def test_the_table_has_a_line_for_every_kind_of_caller(explained):
    assert [(line.caller, line.tier, line.team) for line in explained.callers] == [
        ("a", "free", "t"),
        ("own", "pro", "-"),
        ("corp:*", "claim plan, else free", "claim org"),
        ("(keys minted into the state)", "its own, else free", "its own"),
        ("anonymous", "free", "-"),
    ]


def test_each_line_holds_the_limits_that_could_match_it(explained):
    lines = {line.caller: [one.split(":")[0].split(" (")[0] for one in line.limits] for line in explained.callers}
    assert lines["a"] == ["tier free", "overrides", "team t", "limit x", "limit y", "limit z"]
    assert lines["own"] == ["tier pro", "limit x", "limit z"]
    assert lines["corp:*"] == ["those of its tier, else tier free", "those of its team", "limit x", "limit z", "limit w"]


def test_each_line_holds_what_restricts_its_targets(explained):
    targets = {line.caller: line.targets.split("; ") for line in explained.callers}
    everyones = ["rule 4 (every call): only models gpt-4o", "gpt-4o then azure/gpt-4o"]
    assert targets["a"] == [
        "as the call names", "only providers openai, azure", "team t: only regions eu", "rule 1 (team=t): only models *", *everyones
    ]  # fmt: skip
    assert targets["own"] == ["own key of openai", "rule 3 (tier=pro): to openai/gpt-4o-mini", *everyones]
    assert "what its team allows" in targets["corp:*"] and "only models gpt-*" in targets["corp:*"]
    assert targets["anonymous"] == ["as the call names", *everyones]


def test_a_limit_reads_as_it_is_written(explained):
    assert "tier free: 10 requests/min, 10,000 tokens/min, $5/day, $0.50/month, 2 at once" in explained.callers[0].limits
    assert "limit x (model=gpt-4o, not (tier=pro); per team, model): 20 requests/min" in explained.callers[0].limits
    assert numbers_text(Limit("l", ("total",))) == "no numbers"


def test_a_shared_limit_says_that_replicas_multiply_it(explained):
    assert "team t (per team): counted in this sidecar only: N replicas may spend N x $2,000/month; use a shared state" in explained.counted
    assert "limit z (per instance): counted in each process, as it says" in explained.counted
    assert not [one for one in explained.counted if one.startswith("team u")], "it has no number that could be counted"


def test_names_say_what_they_cover(explained):
    assert explained.covers["gpt-4o"] == ("gpt-4o", "gpt-4o-2024-08-06")
    assert explained.covers["*"] == ("gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-mini")


@pytest.mark.parametrize(
    "says",
    [
        "server.hosts: off",
        "providers.lan.allow_private",
        "callers.anonymous is allowed although",
        "callers.jwt corp: no audience",
        "callers.keys a: overrides.requests takes the place of tier free's",
        "callers.keys a: overrides.concurrency takes the place of tier free's",
        "unknown_price: allow",
        "limit x: missing: shared",
        "guard.on_error: pass",
        "guard.uninspected: pass",
        "guard.ignore exempts *@a.example",
        "rule 1: guard is weaker than the policy's for email",
        "rule 1: allow.models takes the place",
        "rule 2: guard is weaker than the policy's for email, phone",
    ],
)
def test_everything_that_weakens_something_is_listed(explained, says):
    assert [one for one in explained.weakenings if one.startswith(says)], explained.weakenings


def test_an_override_that_is_tighter_weakens_nothing(explained):
    assert not [one for one in explained.weakenings if "overrides.tokens" in one]


def test_a_plain_policy_weakens_nothing(tmp_path):
    document = read_policy(None)
    assert explain(compile_policy(document, environ={}, base=tmp_path, generation=1), document).weakenings == ()


@pytest.mark.parametrize(
    "says",
    [
        "chat streams to openai, azure, lan: stream_options.include_usage",
        "cookies are stripped",
        "personal data is masked in requests and restored",
        "openai: sets X-A",
        "openai: removes x-user-id",
        "openai: callers' keys are swapped for K",
        "azure: model names become gpt-4o -> prod",
        "rule 3 sends tier=pro to openai/gpt-4o-mini",
    ],
)
def test_every_claim_to_change_bytes_is_listed(explained, says):
    assert [one for one in explained.changes if one.startswith(says)], explained.changes


def test_the_default_policy_claims_stream_usage_and_cookies_only(tmp_path):
    document = read_policy(None)
    assert len(explain(compile_policy(document, environ={}, base=tmp_path, generation=1), document).changes) == 2


def test_amounts_and_guards_read_well():
    assert [money(one) for one in (5 * 10**9, 500_000_000, 1000, 0, 2_000 * 10**9)] == ["$5", "$0.50", "$0.000001", "$0", "$2,000"]
    assert guard_text(GuardRules()) == "off"
    assert guard_text(GuardRules({"email": "mask", "iban": "block", "phone": "mask"})) == "mask email, phone; block iban"


def test_a_limit_that_is_written_into_requests_is_a_claim_to_change_bytes(tmp_path):
    (tmp_path / "policy.yaml").write_text("inject_max_tokens: true\ndefault_max_tokens: 1500\n")
    document = read_policy(tmp_path / "policy.yaml")
    changes = explain(compile_policy(document, environ={}, base=tmp_path, generation=1), document).changes
    assert changes[0] == "generating requests that name no max_tokens: 1,500 is written in"


def test_it_says_which_models_answer_for_others_and_that_streams_may_end():
    document = read_policy(Path("p.yaml"), AT_LIMIT)
    changes = explain(compile_policy(document, environ={}, base=Path("."), generation=1), document).changes
    assert "at_limit.degrade: from 75% of the money on, gpt-4o is answered by gpt-4o-mini" in changes
    assert any("stop_streams" in one for one in changes)


LIMITED = """
state: {state}
teams: {{t: {{spend: $2000/month}}}}
tiers: {{free: {{requests: 60/min}}}}
limits:
  - {{name: all, per: total, spend: $20000/month, requests: 1000/min, concurrency: 50}}
  - {{name: model, per: [team, model], tokens: 100/min}}
"""


def counted_with(state, tmp_path):
    document = read_policy(None, LIMITED.format(state=state))
    return explain(compile_policy(document, environ=ENVIRON, base=tmp_path, generation=1), document).counted


def test_with_a_shared_state_limits_are_counted_by_all_sidecars_together(tmp_path):
    counted = counted_with("redis://h/0", tmp_path)
    assert counted
    assert all(one.endswith(": counted by all sidecars together, in the shared state") for one in counted)


@pytest.mark.parametrize("scheme", ["redis+cluster", "rediss+cluster"])
def test_on_a_cluster_a_limit_that_crosses_slots_is_said_to_be_granted_with_its_bound(scheme, tmp_path):
    assert set(counted_with(f"{scheme}://a:1,b:2", tmp_path)) == {
        "tier free (per caller): counted by all sidecars together, in the slot of the caller's team, else of the caller",
        "team t (per team): counted by all sidecars together, in the slot of the team",
        "limit model (per team, model): counted by all sidecars together, in the slot of the team",
        "limit all (per total): granted to each sidecar in parts, as it crosses slots: never over; granted and unused at most"
        " $200 of $20,000/month, 10 of 1,000 requests/min, 0 of 50 at once in each sidecar",
    }
