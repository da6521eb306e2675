"""No key of the policy is accepted and does nothing: each is not supported yet, or named here with the test that shows its effect."""

import ast
import asyncio
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from support.sluice import ROOT

from proxy.policy.schema import schema

HERE = Path(__file__).parent

# test → the keys that it shows; a map or list of names is `*`
SHOWN = {
    "test_server.py": {
        "test_a_version_that_is_not_ours_and_a_port_in_use_are_one_clear_line": "version",
        "test_it_listens_and_keeps_its_state_where_the_policy_says": "server server.listen server.admin state",
        "test_a_state_of_the_policy_survives_a_restart": "state",
        "test_the_admin_api_wants_its_token_and_health_does_not": "server.admin_token",
        "test_only_the_named_hosts_are_answered": "server.hosts",
        "test_pages_of_the_named_origins_may_call_and_no_others": "server.cors",
        "test_what_is_held_is_bounded_after_decompression_too": "server.max_body",
        "test_what_streams_through_is_bounded_by_max_upload_alone": "server.max_upload",
        "test_streams_may_finish_within_drain_and_are_told_when_it_is_over": "server.drain",
        "test_a_request_without_a_prefix_goes_to_the_default_provider_or_where_its_shape_says": "default_provider",
    },
    "test_durability.py": {
        "test_with_disk_no_byte_leaves_before_the_hold_is_on_the_disk_and_with_process_it_need_not_be": "durability",
    },
    "test_limits.py": {
        "test_a_refusal_of_an_own_account_says_cost_rest_and_when_the_day_ends_in_the_time_zone": "time_zone",
        "test_requests_are_counted_and_the_one_too_many_is_refused": "tiers tiers.* tiers.*.requests "
        "teams.*.requests limits limits.*.requests",
        "test_tokens_are_held_by_the_estimate_and_settled_by_what_the_provider_said": "tiers.*.tokens teams.*.tokens limits.*.tokens",
        "test_spend_is_held_before_and_settled_after_and_never_exceeded": "tiers.*.spend teams.*.spend limits.*.spend "
        "teams.*.at_limit teams.*.at_limit.status limits.*.at_limit limits.*.at_limit.status",
        "test_calls_at_the_same_time_are_counted_and_a_finished_one_frees_its_slot": "tiers.*.concurrency "
        "teams.*.concurrency limits.*.concurrency",
        "test_the_numbers_of_a_team_are_shared_by_its_members_and_refusals_name_its_contact_but_no_amounts": "teams "
        "teams.* teams.*.contact",
        "test_an_override_replaces_that_one_number_of_the_tier": "callers.keys.*.overrides callers.keys.*.overrides.requests "
        "callers.keys.*.overrides.tokens callers.keys.*.overrides.spend callers.keys.*.overrides.concurrency",
        "test_a_rule_may_change_the_status_of_money_for_its_calls": "rules.*.at_limit rules.*.at_limit.status",
        "test_the_status_of_money_is_the_policys_where_nobody_says_otherwise": "at_limit at_limit.status",
        "test_unbounded_names_beyond_max_keys_share_one_account": "max_keys",
        "test_without_max_tokens_the_estimate_takes_default_max_tokens": "default_max_tokens",
    },
    "test_at_limit.py": {
        "test_from_its_share_on_a_listed_model_is_answered_by_the_cheaper_one": " ".join(
            f"{place}at_limit.degrade{key}"
            for place in ("", "teams.*.", "limits.*.", "rules.*.")
            for key in ("", ".from", ".models", ".models.*")
        ),
        "test_a_running_stream_ends_well_where_the_money_ends": "at_limit.stop_streams teams.*.at_limit.stop_streams "
        "limits.*.at_limit.stop_streams rules.*.at_limit.stop_streams",
    },
    "test_alerts.py": {
        "test_a_share_that_is_reached_is_logged_counted_and_posted_once": "alerts alerts.at alerts.webhook",
    },
    "test_match.py": {
        "test_a_limit_counts_the_calls_its_match_means_and_no_others": " ".join(
            f"limits.*.match{key}" for key in ("", ".caller", ".key", ".team", ".tier", ".provider", ".model", ".operation", ".method",
                                               ".path", ".ip", ".not", ".^(header|claim):.+$")
        ),
        "test_a_rule_holds_for_the_calls_its_match_means_and_no_others": "rules " + " ".join(
            f"rules.*.match{key}" for key in ("", ".caller", ".key", ".team", ".tier", ".provider", ".model", ".operation", ".method",
                                              ".path", ".ip", ".not", ".^(header|claim):.+$")
        ) + " rules.*.allow rules.*.allow.providers",
        "test_a_limit_is_counted_per_what_it_names": "limits.*.per limits.*.name callers.end_user",
        "test_a_call_without_an_end_user_is_refused_where_the_limit_says_deny": "limits.*.missing",
        "test_calls_without_an_end_user_share_one_account_where_the_limit_says_shared": "limits.*.missing",
        "test_a_rule_bounds_models_regions_and_tiers_too": "rules.*.allow.models rules.*.allow.regions rules.*.allow.tiers",
    },
    "test_money.py": {
        "test_an_own_price_is_charged_to_the_nano_dollar": "prices prices.* prices.*.input prices.*.output prices.*.cached_input",
        "test_cache_writes_have_a_price_of_their_own": "prices.*.cache_write",
        "test_a_discount_is_taken_off_the_price_of_that_provider_alone": "prices.*.discount",
        "test_an_unknown_price_is_charged_the_fallback_price_and_says_so_where_nothing_limits_spend": "fallback_price fallback_price.input "
        "fallback_price.output",
        "test_the_policy_may_say_what_becomes_of_them_spend_limit_or_not": "unknown_price unmetered",
    },
    "test_prices.py": {
        "test_a_limit_is_written_into_generating_requests_that_name_none_where_the_policy_says_so": "inject_max_tokens",
    },
    "test_providers.py": {
        "test_the_key_of_the_policy_goes_where_each_dialect_wants_it_and_the_sluice_key_stays_here": "providers "
        "providers.* providers.*.key",
        "test_the_url_says_where_and_the_dialect_says_how": "providers.*.url providers.*.dialect",
        "test_headers_are_set_and_removed": "providers.*.headers providers.*.headers.set "
        "providers.*.headers.set.* providers.*.headers.remove",
        "test_model_names_are_ours_here_and_theirs_there": "providers.*.models providers.*.models.*",
        "test_azure_gets_its_deployment_its_version_and_its_key_and_prices_know_our_name": "providers.*.api_version",
        "test_the_region_decides_what_a_regional_caller_may_use": "providers.*.region",
        "test_keys_rotate_when_one_is_refused_or_has_no_credit": "providers.*.keys",
        "test_no_more_than_max_connections_are_open_to_a_provider": "providers.*.max_connections",
        "test_plain_http_to_a_private_address_wants_leave": "providers.*.allow_private",
    },
    "test_breaker.py": {
        "test_the_breaker_opens_after_consecutive_failures_and_a_probe_closes_it": "breaker.consecutive breaker.open",
        "test_the_breaker_opens_at_the_ratio_of_enough_calls_in_the_window": "breaker.window breaker.min_requests breaker.failure_ratio",
        "test_a_breaker_that_is_off_never_opens": "breaker",
    },
    "test_timeouts.py": {
        "test_each_phase_has_its_time_wherever_the_policy_says_so": " ".join(
            f"{place}timeouts{phase}"
            for place in ("", "providers.*.", "rules.*.")
            for phase in ("", ".connect", ".first_byte", ".idle", ".total")
        ),
        "test_when_the_client_leaves_the_answer_is_cancelled_or_finished": "on_client_gone",
    },
    "test_retry.py": {
        "test_a_failure_is_tried_again_until_attempts_are_used_up_and_then_passes_verbatim": "retry retry.attempts",
        "test_backoff_is_waited_between_attempts": "retry.backoff rules.*.retry.backoff",
        "test_a_budget_of_nothing_allows_no_retry": "rules.*.retry.budget",
        "test_the_budget_of_the_policy_bounds_retries": "retry.budget",
        "test_what_the_policy_does_not_name_is_not_retried": "retry.on_errors rules.*.retry.on_errors",
        "test_rules_change_attempts_or_switch_retries_off": "rules.*.retry rules.*.retry.attempts",
        "test_a_failed_model_falls_back_to_the_targets_of_the_policy_in_their_order": "fallback fallback.*",
        "test_fallback_on_says_what_sends_a_call_to_its_fallback": "fallback_on",
        "test_rules_change_fallbacks_or_switch_them_off": "rules.*.fallback rules.*.fallback.*",
        "test_a_rule_sends_its_calls_elsewhere": "rules.*.send_to",
    },
    "test_callers.py": {
        "test_strangers_are_let_in_or_not_as_the_policy_says": "callers callers.anonymous callers.pass_through",
        "test_callers_with_a_provider_key_pass_through_in_the_tier_of_the_policy": "callers.pass_through",
        "test_callers_without_a_credential_are_anonymous_in_the_tier_of_the_policy": "callers.anonymous",
        "test_default_tier_is_that_of_a_key_that_names_none": "callers.default_tier",
        "test_a_sluice_key_is_its_caller_with_team_and_tier": "callers.keys callers.keys.*.name "
        "callers.keys.*.hash callers.keys.*.team callers.keys.*.tier",
        "test_a_shared_token_of_old_goes_on_working_under_its_name": "callers.keys.*.key",
        "test_a_named_own_key_goes_upstream_unchanged_to_its_own_provider_alone": "callers.keys.*.own_provider_key",
        "test_a_key_is_dead_from_the_first_instant_of_its_day_in_the_time_zone": "callers.keys.*.expires time_zone",
        "test_allow_bounds_what_a_key_or_its_team_may_use": "callers.keys.*.allow callers.keys.*.allow.models "
        "callers.keys.*.allow.providers "
        "callers.keys.*.allow.regions teams.*.allow teams.*.allow.models teams.*.allow.providers",
        "test_the_region_of_a_team_is_checked": "teams.*.allow.regions",
        "test_allow_tiers_bounds_the_tiers_of_a_key_and_of_a_team": "callers.keys.*.allow.tiers teams.*.allow.tiers",
    },
    "test_jwt.py": {
        "test_a_token_of_the_issuers_key_set_is_a_caller": "callers.jwt callers.jwt.*.name callers.jwt.*.issuer callers.jwt.*.jwks",
        "test_a_token_of_the_shared_secret_is_a_caller": "callers.jwt.*.secret callers.jwt.*.claims callers.jwt.*.claims.name "
        "callers.jwt.*.claims.team callers.jwt.*.claims.tier",
        "test_claims_are_mapped_to_team_and_tier_and_a_value_outside_the_map_is_refused": " ".join(
            f"callers.jwt.*.claims.{what}.{key}" for what in ("team", "tier") for key in ("from", "map", "map.*")
        ),
        "test_a_bad_token_of_ours_is_refused_and_never_leaves": "callers.jwt.*.audience callers.jwt.*.max_lifetime",
        "test_an_algorithm_that_the_policy_does_not_name_is_refused": "callers.jwt.*.algorithms",
        "test_allow_bounds_the_callers_of_an_issuer": "callers.jwt.*.allow callers.jwt.*.allow.models callers.jwt.*.allow.providers "
        "callers.jwt.*.allow.tiers",
        "test_the_regions_of_an_issuer_bound_its_callers": "callers.jwt.*.allow.regions",
    },
    "test_guard.py": {
        "test_the_policy_gives_each_entity_its_action_and_default_to_the_rest": "guard guard.pii guard.pii.*",
        "test_a_rule_gives_each_entity_each_action": "rules.*.guard rules.*.guard.pii rules.*.guard.pii.*",
        "test_without_restore_the_caller_gets_the_placeholders": "guard.restore rules.*.guard.restore",
        "test_ignored_values_are_no_finding": "guard.ignore rules.*.guard.ignore",
        "test_what_no_rule_can_read_is_blocked_flagged_or_passed": "guard.uninspected rules.*.guard.uninspected",
        "test_when_the_guard_itself_fails_the_call_is_blocked_or_passed_as_the_policy_says": "guard.on_error rules.*.guard.on_error",
    },
    "test_shared_state.py": {
        "test_200_simultaneous_calls_over_four_sidecars_on_a_budget_for_10_reach_the_provider_10_times": "state",
        "test_sidecars_share_what_is_of_their_namespace_and_nothing_else": "namespace",
        "test_on_state_down_decides_for_money_and_rates": "on_state_down on_state_down.money on_state_down.rates",
    },
    "test_ledger.py": {
        "test_rows_beyond_the_age_or_the_size_that_the_policy_keeps_go_to_the_archive": "ledger ledger.keep ledger.max_size",
    },
    "test_ledger_stream.py": {
        "test_every_row_goes_to_the_stream_as_the_ledger_shows_it_names_hashed_where_the_policy_says_so": "observe.ledger_stream",
    },
    "test_observe.py": {
        "test_the_level_of_the_policy_is_the_least_that_is_written": "observe observe.logs observe.logs.level",
        "test_names_are_hashed_everywhere_where_the_policy_says_so": "observe.identities",
    },
}  # fmt: skip

# Everything that may still be refused, asked for at once, each at its place.
REFUSED = """
include: [org.yaml]
server: {tls: {cert: file:a, key: file:b}}
callers:
  signatures: {secret: env:S}
  networks: {deny: [10.0.0.0/8]}
  kubernetes: {audience: sluice}
providers: {bedrock: {region: us-east-1}, openai: {credentials: env}}
guard: {pii: {person: mask}, secrets: block, injection: {action: flag}, output: {pii: flag}, custom: [{name: a, pattern: b}]}
inputs: {max_chars: 400k}
hedge: {after: p95}
keepalive: 15s
cache: {ttl: 1h}
single_flight: caller
optimize: {strategy: balanced}
models: {fast: {alias: openai/gpt-4o-mini}}
shadow: next.yaml
observe: {otlp: env:Y}
rules:
  - match: {model: o3}
    guard: {pii: {mac: mask}, secrets: block, injection: {action: flag}, output: {pii: flag}, custom: [{name: a, pattern: b}]}
    inputs: {max_chars: 1}
    hedge: {after: p95}
    cache: {ttl: 1h}
    single_flight: caller
    optimize: {strategy: balanced}
"""


def keys(node: dict, path: str = "", inside: tuple[str, ...] = ()) -> Iterator[str]:
    """Every key that the schema knows, as a dotted path with * for names and indexes."""
    parts = schema_parts()
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        if name in inside:  # `not` holds a match
            return
        node, inside = {**node, **parts[name]}, (*inside, name)
    for group in ("anyOf", "oneOf", "allOf"):
        for branch in node.get(group, ()):
            yield from keys(branch, path, inside)
    for name, value in {**node.get("properties", {}), **node.get("patternProperties", {})}.items():
        here = f"{path}.{name}" if path else name
        yield here
        yield from keys(value, here, inside)
    if isinstance(more := node.get("additionalProperties"), dict):
        yield f"{path}.*"
        yield from keys(more, f"{path}.*", inside)
    if isinstance(items := node.get("items"), dict):
        yield from keys(items, f"{path}.*", inside)


@cache
def schema_parts() -> dict:
    return schema()["$defs"]


ALL = list(dict.fromkeys(keys(schema())))
NOT_YET: list[str] = schema()["x-not-supported-yet"]


def is_not_yet(key: str) -> bool:
    return any(key == path or key.startswith(f"{path}.") for path in NOT_YET)


@cache
def shown() -> dict[str, list[str]]:
    """Key → its tests."""
    found: dict[str, list[str]] = {}
    for file, tests in SHOWN.items():
        for test, named in tests.items():
            for key in named.split():
                found.setdefault(key, []).append(f"{file}::{test}")
    return found


def test_the_walk_sees_the_whole_language():
    assert len(ALL) > 250
    assert {"limits.*.match.not", "callers.jwt.*.claims.tier.map.*", "rules.*.guard.pii.*", "providers.*.headers.set.*"} <= set(ALL)


@pytest.mark.parametrize("key", [key for key in ALL if not is_not_yet(key)])
def test_every_key_that_is_supported_has_a_test_that_shows_its_effect(key):
    assert shown().get(key), f"{key} is accepted, and no test shows what it does: write one and name it in SHOWN"


def test_every_key_that_is_named_exists():
    assert set(shown()) - set(ALL) == set()
    assert not [key for key in shown() if is_not_yet(key)], "supported keys are not on the list of those that are not"


@pytest.mark.parametrize("file", SHOWN)
def test_every_test_that_is_named_exists(file):
    tree = ast.parse((HERE / file).read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert set(SHOWN[file]) - defined == set()


def test_only_what_the_issue_names_may_be_unsupported():
    allowed = (
        "include", "server.tls", 
        "callers.signatures", "callers.networks", "callers.kubernetes", "providers.bedrock",
        "providers.*.credentials", "guard.secrets", "guard.injection", "guard.output", "guard.custom", "inputs", "hedge", "keepalive",
        "cache", "single_flight", "optimize", "models", "shadow", "observe.otlp",
    )  # fmt: skip
    beyond = [path for path in NOT_YET if not any(path == one or path.endswith(f".{one}") for one in allowed)]
    assert beyond == []


async def test_check_refuses_each_unsupported_key_at_its_place_and_all_at_once(tmp_path):
    file = tmp_path / "all.yaml"
    file.write_text(REFUSED)
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "proxy", "check", str(file), stdout=-1, stderr=-1, cwd=ROOT)
    out, _ = await process.communicate()
    assert process.returncode == 1
    refused = {line.split(": ")[1] for line in out.decode().splitlines() if ": not supported yet" in line}
    spelt = {path.replace("teams.*", "teams.t").replace("limits.*", "limits[0]").replace("rules.*", "rules[0]") for path in NOT_YET}
    spelt = {path.replace("providers.*", "providers.openai") for path in spelt} | {"guard.pii.person", "rules[0].guard.pii.mac"}
    assert spelt - refused == set(), out.decode()
    assert all(
        line.startswith(f"{file}:") and line.split(":")[1].isdigit() for line in out.decode().splitlines()[:-1] if "not supported" in line
    )
