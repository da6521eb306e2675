"""How much may be used: the numbers of tiers, teams, `limits:` and overrides, what a refusal says, and that it tells the truth."""

import asyncio
import itertools
import json
import re
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import jwt
import pytest
import pytest_asyncio
from support.echo import echo
from support.world import World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

ZONE = "Pacific/Kiritimati"  # UTC+14: its days are never those of UTC
# `flat` costs $0.01 a token of output and nothing else: a call may cost its max_tokens and does cost its output
POLICY = f"""
time_zone: {ZONE}
default_max_tokens: 100
max_keys: 2
providers: {{openai: {{url: A_URL}}}}
prices:
  flat: {{input: 0, output: 10000}}
  text: {{input: 10000, output: 0}}
tiers:
  roomy: {{}}
  tier-requests: {{requests: [100/hour, 2/min]}}
  tier-tokens: {{tokens: 400/min}}
  tier-spend: {{spend: [$100/month, $1.20/day]}}
  tier-concurrency: {{concurrency: 1}}
teams:
TEAMS
callers:
  anonymous: roomy
  default_tier: roomy
  jwt: [{{name: corp, issuer: corp, secret: env:JWT_SECRET, claims: {{tier: tier, team: team}}}}]
  keys:
    - {{name: over-requests, hash: HASH(over-requests), tier: tier-requests, overrides: {{requests: 1/min}}}}
    - {{name: over-tokens, hash: HASH(over-tokens), tier: tier-tokens, overrides: {{tokens: 900/min}}}}
    - {{name: over-spend, hash: HASH(over-spend), tier: tier-spend, overrides: {{spend: $0.60/total}}}}
    - {{name: over-concurrency, hash: HASH(over-concurrency), tier: tier-concurrency, overrides: {{concurrency: 2}}}}
    - {{name: ruled, hash: HASH(ruled), tier: tier-spend}}
limits:
  - {{name: some-requests, match: {{header:x-case: limit-requests}}, requests: 2/hour}}
  - {{name: some-tokens, match: {{header:x-case: limit-tokens}}, tokens: 400/day}}
  - {{name: some-spend, match: {{header:x-case: limit-spend}}, spend: 1.20 USD/total, at_limit: {{status: 429}}}}
  - {{name: some-concurrency, match: {{header:x-case: limit-concurrency}}, concurrency: 1}}
  - {{name: tenants, match: {{header:x-case: max-keys}}, per: header:x-tenant, requests: 1/day}}
  - {{name: nothing, match: {{header:x-case: zero}}, requests: 0/min}}
  - {{name: text, match: {{header:x-case: text}}, spend: $100/day}}
rules:
  - {{match: {{caller: ruled}}, at_limit: {{status: 429}}}}
"""
TEAM = {
    "requests": "requests: 2/day, contact: '#requests'",
    "tokens": "tokens: 400/hour, contact: '#tokens'",
    "spend": "spend: $1.20/month, contact: '#finops', at_limit: {status: 429}",
    "concurrency": "concurrency: 1, contact: '#slots'",
}
COPIES = range(4)  # of each team: no two tests share an account
POLICY = POLICY.replace("TEAMS", "\n".join(f"  team-{name}-{n}: {{{TEAM[name]}}}" for name in TEAM for n in COPIES))
JWT_SECRET = "0123456789abcdef0123456789abcdef"
_number = itertools.count()
_team = {name: iter(COPIES) for name in TEAM}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    async with world(tmp_path_factory.mktemp("limits"), POLICY, {"JWT_SECRET": JWT_SECRET}) as one:
        yield one


def somebody(tier: str | None = None, team: str | None = None) -> str:
    """The token of a caller that nobody was before."""
    claims = {"iss": "corp", "sub": f"caller-{next(_number)}", "exp": time.time() + 300, "tier": tier, "team": team}
    return jwt.encode({name: value for name, value in claims.items() if value}, JWT_SECRET, "HS256")


def some_team(number: str) -> str:
    """A team that nobody used before, with a limit of that number."""
    return f"team-{number}-{next(_team[number])}"


@pytest.fixture(autouse=True)
def _quiet(request):
    if "here" in request.fixturenames:
        request.getfixturevalue("here").forget()


def case(name: str) -> list[tuple[str, str]]:
    return [("x-case", name)]


async def flat(here: World, key: str, dollars: float, name: str = ""):
    """A call that may cost so much and does cost half of it."""
    tokens = round(dollars * 100)
    headers = [*case(name), ("x-usage", f"1,{tokens // 2}")]
    return await here.chat(key, model="flat", max_tokens=tokens, headers=headers)


def subject(where: str, number: str) -> tuple[str, str, str]:
    """Somebody new under a limit of that number in tiers, teams or `limits:`: token, x-case, the limit's name in replies."""
    if where == "tier":
        return somebody(tier=f"tier-{number}"), "", f"tier tier-{number}"
    if where == "team":
        team = some_team(number)
        return somebody(team=team), "", f"team {team}"
    return somebody(), f"limit-{number}", f"limit some-{number}"


WHERE = ("tier", "team", "limit")


@pytest.mark.parametrize("where", WHERE)
async def test_requests_are_counted_and_the_one_too_many_is_refused(here, where):
    key, x_case, name = subject(where, "requests")
    answers = [await here.chat(key, headers=case(x_case)) for _ in range(3)]
    assert [got.status for got in answers] == [200, 200, 429]
    assert answers[2].code == "rate_limited" and answers[2].header("x-sluice-limit") == name
    assert len(here.provider.seen) == 2


@pytest.mark.parametrize("where", WHERE)
async def test_tokens_are_held_by_the_estimate_and_settled_by_what_the_provider_said(here, where):
    key, x_case, name = subject(where, "tokens")
    headers = [*case(x_case), ("x-usage", "100,200")]
    small = await here.chat(key, max_tokens=100, headers=headers)
    assert small.status == 200  # at most ~80 bytes and 100 tokens: it fits; it used 300
    again = await here.chat(key, max_tokens=100, headers=headers)
    assert (again.status, again.code, again.header("x-sluice-limit")) == (429, "rate_limited", name), again.body
    too_large = await here.chat(key, max_tokens=500, headers=headers)
    assert (too_large.status, too_large.code, too_large.header("x-should-retry")) == (400, "exceeds_limit", "false")


@pytest.mark.parametrize("where", WHERE)
async def test_spend_is_held_before_and_settled_after_and_never_exceeded(here, where):
    key, x_case, name = subject(where, "spend")
    assert (await flat(here, key, 1.0, x_case)).status == 200  # may cost 1.00, does cost 0.50
    refused = await flat(here, key, 0.8, x_case)  # 0.50 + 0.80 > 1.20
    assert refused.code == "budget_exhausted" and refused.header("x-sluice-limit") == name
    assert refused.status == {"tier": 402, "team": 429, "limit": 429}[where]  # as each one's at_limit says
    assert refused.header("x-should-retry") == "false" and refused.header("retry-after") is None
    assert (await flat(here, key, 0.7, x_case)).status == 200  # 0.50 + 0.70 = 1.20: to the last cent
    assert (await flat(here, key, 1.3, x_case)).code == "exceeds_limit"


@pytest.mark.parametrize("where", WHERE)
async def test_calls_at_the_same_time_are_counted_and_a_finished_one_frees_its_slot(here, where):
    key, x_case, name = subject(where, "concurrency")
    began, may_end = asyncio.Event(), asyncio.Event()

    async def slow(seen, reply):
        began.set()
        await may_end.wait()
        await echo(seen, reply)

    here.provider.script = slow
    first = asyncio.ensure_future(here.chat(key, headers=case(x_case)))
    await began.wait()
    refused = await here.chat(key, headers=case(x_case))
    may_end.set()
    assert (refused.status, refused.code, refused.header("x-sluice-limit")) == (429, "too_many_in_flight", name)
    assert 1 <= int(refused.header("retry-after")) <= 60
    assert (await first).status == 200
    assert (await here.chat(key, headers=case(x_case))).status == 200


async def test_the_numbers_of_a_team_are_shared_by_its_members_and_refusals_name_its_contact_but_no_amounts(here):
    requests, spend = some_team("requests"), some_team("spend")
    assert [(await here.chat(somebody(team=requests))).status for _ in range(2)] == [200, 200]
    assert (await flat(here, somebody(team=spend), 1.0)).status == 200
    counted, money = await here.chat(somebody(team=requests)), await flat(here, somebody(team=spend), 0.8)
    assert (counted.code, money.code) == ("rate_limited", "budget_exhausted")
    for got, contact in ((counted, "ask #requests"), (money, "ask #finops")):
        said = got.json["error"]["message"]
        assert contact in said and "team team-" in said
        assert "$" not in said and " left" not in said and "would fit" not in said, said


async def test_a_refusal_of_an_own_account_says_cost_rest_and_when_the_day_ends_in_the_time_zone(here):
    key = somebody(tier="tier-spend")
    await flat(here, key, 1.0)
    said = (await flat(here, key, 0.9)).json["error"]["message"]
    now = datetime.now(ZoneInfo(ZONE))
    reset = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), ZoneInfo(ZONE)).astimezone(UTC)
    assert "limit tier tier-spend" in said and "may cost $0.90" in said and "$0.70 left" in said
    assert f"until {reset:%Y-%m-%dT%H:%MZ}" in said, said


async def test_what_the_message_says_would_fit_does_fit(here):
    key = somebody()
    assert (await flat(here, key, 1.0, "limit-spend")).status == 200
    said = (await flat(here, key, 1.1, "limit-spend")).json["error"]["message"]
    assert "max_tokens ≤ 70 would fit" in said, said
    assert (await flat(here, key, 0.71, "limit-spend")).code == "budget_exhausted"
    assert (await flat(here, key, 0.70, "limit-spend")).status == 200


async def test_an_override_replaces_that_one_number_of_the_tier(here):
    assert [(await here.chat("over-requests")).status for _ in range(2)] == [200, 429]
    assert (await here.chat("over-tokens", max_tokens=500)).status == 200  # the tier has 400/min
    assert (await flat(here, "over-spend", 0.6)).status == 200
    refused = await flat(here, "over-spend", 0.4)
    assert refused.code == "budget_exhausted" and "$0.30 left" in refused.json["error"]["message"]
    both = await asyncio.gather(here.chat("over-concurrency"), here.chat("over-concurrency"))
    assert [got.status for got in both] == [200, 200]


async def test_a_rule_may_change_the_status_of_money_for_its_calls(here):
    assert (await flat(here, "ruled", 1.2)).status == 200
    refused = await flat(here, "ruled", 0.9)
    assert (refused.status, refused.code) == (429, "budget_exhausted")


async def test_the_status_of_money_is_the_policys_where_nobody_says_otherwise(tmp_path):
    policy = """
    providers: {openai: {url: A_URL}}
    prices: {flat: {input: 0, output: 10000}}
    at_limit: {status: 429}
    limits:
      - {name: says-nothing, match: {'header:x-case': one}, spend: $1/total}
      - {name: says-402, match: {'header:x-case': two}, spend: $1/total, at_limit: {status: 402}}
    """
    async with world(tmp_path, policy) as one:
        for name, status in (("one", 429), ("two", 402)):
            assert (await one.chat(model="flat", max_tokens=90, headers=[*case(name), ("x-usage", "1,90")])).status == 200
            refused = await one.chat(model="flat", max_tokens=90, headers=case(name))
            assert (refused.status, refused.code) == (status, "budget_exhausted")
            assert refused.header("x-should-retry") == "false"


async def test_unbounded_names_beyond_max_keys_share_one_account(here):
    statuses = [(await here.chat(headers=[*case("max-keys"), ("x-tenant", name)])).status for name in ("a", "b", "c", "d", "a")]
    assert statuses == [200, 200, 200, 429, 429]  # c was the first of the rest, d the second of them; a has its own


async def test_max_keys_of_a_new_generation_holds_for_accounts_from_then_on(tmp_path):
    policy = """
    max_keys: 1
    providers: {openai: {url: A_URL}}
    limits: [{name: tenants, per: header:x-tenant, requests: 1/day}]
    """
    async with world(tmp_path, policy) as one:

        async def statuses(names: str) -> list[int]:
            return [(await one.chat(headers=[("x-tenant", name)])).status for name in names]

        assert await statuses("abc") == [200, 200, 429]
        await one.reload(policy.replace("max_keys: 1", "max_keys: 10"))
        assert await statuses("cde") == [200, 200, 200]


async def test_a_limit_of_zero_lets_nothing_through(here):
    got = await here.chat(headers=case("zero"))
    assert got.status in (400, 429) and got.header("x-sluice-limit") == "limit nothing"
    assert not here.provider.seen


async def test_without_max_tokens_the_estimate_takes_default_max_tokens(here):
    row = await here.row(await here.chat(somebody(), model="flat"))
    assert row["held_nanousd"] == 100 * 10_000_000  # default_max_tokens at $0.01
    assert "max_tokens" not in here.last.json  # nothing is written into the request


async def test_the_estimate_of_the_input_is_never_below_what_was_sent(here):
    text = "ä" * 50
    row = await here.row(await here.chat(somebody(), text=text, model="text", headers=case("text")))
    assert row["held_nanousd"] == len(here.last.body) * 10_000_000


async def test_rate_headers_tell_the_truth_and_the_tightest_limit_is_named(here):
    key = somebody()
    got = await here.chat(key, headers=case("limit-requests"))
    now = time.time()
    assert got.header("x-sluice-limit") == "limit some-requests"
    assert (got.header("x-ratelimit-limit"), got.header("x-ratelimit-remaining")) == ("2", "1")
    assert 3500 < int(got.header("x-ratelimit-reset")) - now <= 3601
    assert got.header("ratelimit-policy") == '"limit some-requests requests";q=2;w=3600'
    assert re.fullmatch(r'"limit some-requests requests";r=1;t=3[56]\d\d', got.header("ratelimit"))
    assert (await here.chat(key, headers=case("limit-requests"))).header("x-ratelimit-remaining") == "0"
    refused = await here.chat(key, headers=case("limit-requests"))
    assert refused.status == 429 and refused.header("retry-after") is None  # an hour is no time to wait


async def test_what_others_use_of_a_shared_account_is_not_told(here):
    got = await here.chat(somebody(team=some_team("requests")))
    assert got.status == 200 and got.header("x-sluice-limit").startswith("team team-requests")
    assert not [name for name, _ in got.headers if "ratelimit" in name.lower()]


async def test_refusals_of_callers_are_rows_and_name_no_credential(here):
    await asyncio.sleep(1.1)  # of more than ten refusals a second no more rows are kept
    row = await here.row(await here.chat(somebody(), headers=case("zero")))
    assert row["caller"].startswith("corp:caller-")
    assert (row["kind"], row["attempt"], row["end"].partition(":")[0]) == ("refusal", 0, "refused")
    assert row["cost_nanousd"] == 0 and row["usage_source"] == "none"
    assert "eyJ" not in json.dumps(row)
