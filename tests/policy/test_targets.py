import pytest

from proxy.exchange import Allow
from proxy.refusal import Refusal

AZURE = """
providers:
  azure-eu: {dialect: azure-openai, url: 'https://x.openai.azure.com', region: eu, models: {gpt-4o: prod-gpt4o-eu}, key: env:K}
  us: {dialect: openai, url: 'https://us.example', region: us}
teams: {eu-legal: {allow: {regions: [eu]}}, t: {}}
fallback:
  gpt-4o: [azure-eu/gpt-4o, us/gpt-4o, gpt-4o-mini]
"""


def places(plan):
    return [(target.provider.name, target.model, target.theirs) for target in plan.targets]


def test_a_call_goes_where_it_asks_and_then_down_its_fallbacks(rulebook, facts):
    expected = [
        ("openai", "gpt-4o", "gpt-4o"),
        ("azure-eu", "gpt-4o", "prod-gpt4o-eu"),
        ("us", "gpt-4o", "gpt-4o"),
        ("openai", "gpt-4o-mini", "gpt-4o-mini"),
    ]
    assert places(rulebook(AZURE).plan(facts())) == expected


@pytest.mark.parametrize(("asked", "theirs"), [("gpt-4o", "prod-gpt4o-eu"), ("prod-gpt4o-eu", "prod-gpt4o-eu")])
def test_ours_and_theirs_name_one_model_with_one_price_and_one_limit(rulebook, facts, asked, theirs):
    plan = rulebook(AZURE + "limits: [{name: l, match: {model: gpt-4o}, requests: 1/min}]").plan(facts(provider="azure-eu", model=asked))
    assert (plan.model, plan.targets[0].theirs, len(plan.claims)) == ("gpt-4o", theirs, 1)


def test_a_model_that_the_provider_does_not_rename_keeps_its_name(rulebook, facts):
    plan = rulebook(AZURE).plan(facts(provider="azure-eu", model="other"))
    assert places(plan) == [("azure-eu", "other", "other")]


def test_a_call_without_a_model_has_one_target(rulebook, facts):
    assert places(rulebook(AZURE).plan(facts(model=None, call={"operation": "files"}))) == [("openai", None, None)]


def test_a_snapshot_falls_back_like_its_name(rulebook, facts):
    assert len(rulebook(AZURE).plan(facts(model="gpt-4o-2024-08-06")).targets) == 4


def test_a_fallback_of_one_target_may_be_named_for_one_provider(rulebook, facts):
    book = rulebook("fallback: {openai/gpt-4o: gpt-4o-mini}")
    assert len(book.plan(facts()).targets) == 2
    assert len(book.plan(facts(provider="groq")).targets) == 1


def test_the_same_place_is_tried_once(rulebook, facts):
    assert len(rulebook("fallback: {gpt-4o: [openai/gpt-4o, gpt-4o-mini, gpt-4o-mini]}").plan(facts()).targets) == 2


def test_a_region_is_checked_on_every_target(rulebook, facts):
    book = rulebook(AZURE)
    assert places(book.plan(facts(provider="azure-eu", team="eu-legal"))) == [
        ("azure-eu", "gpt-4o", "prod-gpt4o-eu"),
        ("azure-eu", "gpt-4o-mini", "gpt-4o-mini"),
    ]
    with pytest.raises(Refusal) as no:
        book.plan(facts(team="eu-legal"))
    assert (no.value.status, no.value.code, no.value.should_retry) == (403, "not_allowed", False)
    assert "region" in no.value.message and "team eu-legal" in no.value.message


@pytest.mark.parametrize(
    ("allow", "what"),
    [
        (Allow(models=("gpt-4o-mini",)), "model"),
        (Allow(providers=("groq",)), "provider"),
        (Allow(regions=("eu",)), "region"),
        (Allow(tiers=("x",)), "tier"),
    ],
)
def test_a_key_uses_only_what_it_may(rulebook, facts, allow, what):
    with pytest.raises(Refusal) as no:
        rulebook().plan(facts(allow=allow, model="gpt-4o"))
    assert what in no.value.message and "key" in no.value.message and "gpt-4o" not in no.value.message


def test_a_rule_may_narrow_what_a_call_uses(rulebook, facts):
    book = rulebook("rules: [{match: {operation: chat}, allow: {models: [gpt-4o-mini]}}]")
    with pytest.raises(Refusal, match="not_allowed"):
        book.plan(facts())
    assert book.plan(facts(model="gpt-4o-mini")).targets


def test_send_to_moves_the_first_target_and_its_limits(rulebook, facts):
    book = rulebook(
        AZURE + "limits: [{name: eu, match: {provider: azure-eu}, requests: 1/min}]\nrules: [{match: {team: t}, send_to: azure-eu/gpt-4o}]"
    )
    plan = book.plan(facts(team="t", model="gpt-4o-2024-08-06"))
    assert places(plan)[0] == ("azure-eu", "gpt-4o", "prod-gpt4o-eu")
    assert plan.model == "gpt-4o-2024-08-06" and [claim.limit.name for claim in plan.claims] == ["limit eu"]


def test_send_to_within_the_same_provider_takes_a_bare_name(rulebook, facts):
    assert places(rulebook("rules: [{match: {model: gpt-4o}, send_to: gpt-4o-mini}]").plan(facts())) == [
        ("openai", "gpt-4o-mini", "gpt-4o-mini")
    ]


def test_send_to_never_translates_and_never_gives_a_callers_own_key_away(rulebook, facts):
    book = rulebook("rules: [{match: {team: t}, send_to: groq/x}]\nteams: {t: {}}")
    with pytest.raises(Refusal) as no:
        book.plan(facts(provider="anthropic", model="claude", team="t"))
    assert "wire format" in no.value.message
    with pytest.raises(Refusal) as no:
        book.plan(facts(kind="pass_through", team="t"))
    assert "own provider key" in no.value.message


def test_a_callers_own_key_falls_back_within_its_provider_only(rulebook, facts):
    assert [name for name, *_ in places(rulebook(AZURE).plan(facts(kind="own_key")))] == ["openai", "openai"]


def test_a_provider_that_is_not_served_is_404(rulebook, facts):
    with pytest.raises(Refusal) as no:
        rulebook().plan(facts(provider="azure"))
    assert (no.value.status, no.value.code) == (404, "unknown_provider")


def test_a_list_of_models_shows_what_key_and_team_allow(rulebook, facts):
    book = rulebook("teams: {t: {allow: {models: ['gpt-*']}}}")
    key = facts(allow=Allow(models=("gpt-4o*", "claude-*")), team="t").caller
    assert [model for model in ("gpt-4o", "gpt-4o-mini", "gpt-3.5", "claude-x") if book.may_list(key, model)] == ["gpt-4o", "gpt-4o-mini"]
    assert book.may_list(facts().caller, "anything")


def test_a_rules_timeouts_hold_for_every_target(rulebook, facts):
    plan = rulebook(AZURE + "rules: [{match: {team: t}, timeouts: {first_byte: 7s}}]").plan(facts(team="t"))
    assert {target.provider.timeouts.first_byte for target in plan.targets} == {7.0} and plan.timeouts.first_byte == 7.0
