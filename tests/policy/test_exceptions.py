import pytest

from proxy.policy.exceptions import NEVER_OPENS


def entities(plan):
    return dict(plan.guard.entities)


ALL = ("email", "phone", "credit_card", "iban", "us_ssn", "ip_address")


def test_without_a_guard_nothing_is_scanned(rulebook, facts):
    plan = rulebook().plan(facts())
    assert not plan.guard.is_on and not plan.guard.rewrites


@pytest.mark.parametrize(
    ("pii", "meant"),
    [
        ("mask", dict.fromkeys(ALL, "mask")),
        ("{default: mask, credit_card: block, ip_address: off}", {"credit_card": "block", **dict.fromkeys(ALL[:2] + ALL[3:5], "mask")}),
        ("{email: flag}", {"email": "flag"}),
        ("off", {}),
        ("false", {}),
        ("{default: false, iban: mask}", {"iban": "mask"}),
    ],
)
def test_each_entity_has_its_action(rulebook, facts, pii, meant):
    assert entities(rulebook(f"guard: {{pii: {pii}}}").plan(facts())) == meant


def test_restore_needs_something_masked(rulebook, facts):
    assert rulebook("guard: {pii: mask}").plan(facts()).guard.restore
    assert not rulebook("guard: {pii: mask, restore: off}").plan(facts()).guard.restore
    assert not rulebook("guard: {pii: flag}").plan(facts()).guard.restore


RULES = """
teams: {medical: {}, t: {}}
guard: {pii: {default: mask, credit_card: block}, ignore: ['*@a.example'], uninspected: block, on_error: block}
retry: {attempts: 4, backoff: 1s..2s, budget: 30%, on_errors: [connect, 429]}
rules:
  - {match: {team: medical}, guard: {pii: flag}}
  - {match: {team: t, model: x}, guard: {pii: {email: off}, ignore: ['*@b.example']}, retry: {attempts: 9}}
  - {match: {team: t}, guard: off, retry: off, timeouts: {idle: off}, fallback: {gpt-4o: [gpt-4o-mini]}}
"""


def test_a_rule_of_one_action_takes_the_place_of_the_whole(rulebook, facts):
    plan = rulebook(RULES).plan(facts(team="medical"))
    assert entities(plan) == dict.fromkeys(ALL, "flag")
    assert plan.guard.uninspected == "block" and plan.guard.ignore == ("*@a.example",)


def test_per_setting_the_first_matching_rule_that_names_it_wins(rulebook, facts):
    plan = rulebook(RULES).plan(facts(team="t", model="x"))
    assert entities(plan) == {"credit_card": "block", **dict.fromkeys(("phone", "iban", "us_ssn", "ip_address"), "mask")}
    assert plan.guard.ignore == ("*@b.example",) and plan.retry.attempts == 9
    assert plan.timeouts.idle > 10**7


def test_off_in_a_rule_switches_the_feature_off(rulebook, facts):
    plan = rulebook(RULES).plan(facts(team="t"))
    assert not plan.guard.is_on and plan.retry.attempts == 1 and len(plan.targets) == 2


def test_a_partial_map_keeps_the_rest(rulebook, facts):
    retry = rulebook(RULES).plan(facts()).retry
    assert (retry.attempts, retry.backoff_min_s, retry.backoff_max_s, retry.budget, retry.on_errors) == (
        4,
        1.0,
        2.0,
        0.3,
        frozenset({"connect", "429"}),
    )
    assert rulebook("retry: {attempts: 2}").plan(facts()).retry.backoff_max_s == 8.0
    assert rulebook("timeouts: {connect: 1s}").plan(facts()).timeouts.first_byte == 60.0


def test_retry_and_breaker_take_off(rulebook, facts):
    plan = rulebook("retry: off\nbreaker: off").plan(facts())
    assert plan.retry.attempts == 1 and plan.breaker == NEVER_OPENS


def test_a_breaker_has_its_numbers(rulebook, facts):
    breaker = rulebook("breaker: {window: 10s, min_requests: 5, failure_ratio: 25%, consecutive: 3, open: 1s..9s}").plan(facts()).breaker
    assert (breaker.window_s, breaker.min_requests, breaker.failure_ratio, breaker.consecutive) == (10.0, 5, 0.25, 3)
    assert (breaker.open_min_s, breaker.open_max_s) == (1.0, 9.0)


def test_many_combinations_of_rules_stay_bounded(rulebook, facts, monkeypatch):
    monkeypatch.setattr("proxy.policy.exceptions.MAX_KEPT", 1)
    book = rulebook(RULES)
    assert [book.plan(facts(team=team)).retry.attempts for team in ("t", "medical", "t")] == [1, 4, 1]
