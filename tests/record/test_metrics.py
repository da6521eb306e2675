"""The figures: exact, named as documented, and of bounded number whatever callers invent."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.also import also

from proxy.exchange import Caller, Row, Try, Usage
from proxy.record import metrics as metrics_module
from proxy.record.figures import documented
from proxy.record.metrics import Metrics
from proxy.record.series import MOST_WAITING
from proxy.standings import Standing, Standings

KNOWN = {"provider": {"openai"}, "model": {"gpt-4o"}, "caller": {"bot"}, "team": {"finance"}, "tier": {"premium"}}
BOT = {"provider": "openai", "model": "gpt-4o", "caller": "bot", "team": "finance", "tier": "premium"}


def is_known(kind, name):
    return name in KNOWN[kind]


@pytest.fixture
def metrics(clock):
    return Metrics(is_known, clock)


def samples(metrics, name):
    families = text_string_to_metric_families(b"".join(metrics.exposition()).decode())
    return [(sample.labels, sample.value) for family in families for sample in family.samples if sample.name == f"sluice_{name}"]


def test_every_metric_is_exposed_under_its_documented_name_and_type(metrics):
    text = b"".join(metrics.exposition()).decode()
    for name, type_, _, help_ in documented():
        assert f"# TYPE {name} {type_}\n" in text
        assert f"# HELP {name} {help_}\n" in text


def test_the_metrics_that_users_were_promised_are_there():
    promised = {
        "requests_total", "refusals_total", "tokens_total", "cost_usd_total", "request_duration_seconds", "first_byte_seconds",
        "overhead_seconds", "in_flight", "retries_total", "fallbacks_total", "breaker_state", "limit_used_ratio", "pii_found_total",
        "estimated_usage_total", "unpriced_total", "policy_generation", "policy_reload_failed_total",
    }  # fmt: skip
    assert {f"sluice_{name}" for name in promised} <= {name for name, *_ in documented()}


def test_a_call_that_is_over_is_counted_with_its_tokens_money_and_times(metrics, tell):
    metrics.told(tell(found={("email", "request", "masked"): 2}))
    assert samples(metrics, "requests_total") == [({**BOT, "operation": "chat", "end": "done", "status": "200"}, 1)]
    tokens = {labels["kind"]: value for labels, value in samples(metrics, "tokens_total")}
    assert tokens == {"input": 10, "cached_input": 4, "cache_write": 2, "output": 5, "reasoning": 3}
    assert samples(metrics, "cost_usd_total") == [(BOT, 5e-7)]
    times = {"provider": "openai", "operation": "chat"}
    assert samples(metrics, "request_duration_seconds_sum") == [(times, 2.0)]
    assert samples(metrics, "first_byte_seconds_sum") == [(times, 1.0)]
    assert samples(metrics, "overhead_seconds_sum") == [(times, 0.5)]
    assert samples(metrics, "pii_found_total") == [({"entity": "email", "direction": "request", "action": "masked"}, 2)]
    assert samples(metrics, "estimated_usage_total") == []


def test_a_bucket_holds_all_up_to_its_bound(metrics, tell):
    for seconds in (0.05, 0.06, 700.0):
        story = tell()
        story.ended = story.call.began + seconds
        metrics.told(story)
    counts = {labels["le"]: value for labels, value in samples(metrics, "request_duration_seconds_bucket")}
    assert (counts["0.05"], counts["0.1"], counts["600.0"], counts["+Inf"]) == (1, 2, 2, 3)
    assert samples(metrics, "request_duration_seconds_count")[0][1] == 3


def test_money_is_added_up_in_nano_dollars_without_rounding(metrics, tell):
    story = tell()
    story.tries[0].cost_nanousd = 100_000_000  # 0.1 dollars: ten floats of these are not 1
    for _ in range(10):
        metrics.told(story)
    assert samples(metrics, "cost_usd_total")[0][1] == 1.0


def test_what_the_policy_does_not_know_is_other(metrics, tell):
    story = tell(caller=Caller("corp:eve", "jwt", "gold", "sales"))
    story.tries[0].provider, story.tries[0].model = "x", "y"
    metrics.told(story)
    labels = samples(metrics, "requests_total")[0][0]
    assert {labels[name] for name in BOT} == {"other"}


def test_what_does_not_exist_is_empty_and_no_status_is_none(metrics, tell):
    metrics.told(tell(caller=None, tries=[], model=None, end="refused:missing_credentials", status=None))
    labels = samples(metrics, "requests_total")[0][0]
    assert labels == {
        "provider": "openai",
        "model": "",
        "caller": "",
        "team": "",
        "tier": "",
        "operation": "chat",
        "end": "refused",
        "status": "none",
    }


def test_ten_thousand_models_keys_and_errors_make_no_series(metrics, tell):
    metrics.told(tell())
    metrics.retried("openai", "gpt-4o", "connect")
    for number in range(10_000):
        story = tell(caller=Caller(f"corp:{number}", "jwt", f"t{number}", f"t{number}"))
        story.tries[0].model = f"m{number}"
        metrics.told(story)
        metrics.retried("openai", f"m{number}", f"error {number}")
    assert len(samples(metrics, "requests_total")) == 2
    assert len(samples(metrics, "retries_total")) == 2


def test_even_known_names_make_no_more_series_than_the_cap(clock, tell, monkeypatch):
    monkeypatch.setattr(metrics_module, "MAX_SERIES", 5)
    metrics = Metrics(lambda kind, name: True, clock)
    for number in range(20):
        metrics.told(tell(caller=Caller(f"c{number}", "key"), operation=f"o{number}"))
        metrics.breaker("openai", f"m{number}", "open")
    assert len(samples(metrics, "requests_total")) == 6
    assert len(samples(metrics, "breaker_state")) == 6
    assert len(samples(metrics, "request_duration_seconds_count")) == 6
    assert sum(value for _, value in samples(metrics, "requests_total")) == 20


def test_calls_that_differ_are_counted_apart_and_like_ones_together(clock, tell):
    metrics = Metrics(lambda kind, name: True, clock)
    stories = [
        tell(), tell(caller=Caller("ann", "key", "premium", "finance")), tell(caller=Caller("bot", "key", "free", "finance")),
        tell(caller=Caller("bot", "key", "premium", None)), tell(operation="other"), tell(end="client_gone"), tell(status=500),
        tell(status=None), tell(caller=None), tell(tries=[], model="m9"),
    ]  # fmt: skip
    for name, value in (("model", "o3"), ("model", None), ("provider", "azure")):
        stories.append(tell())
        setattr(stories[-1].tries[0], name, value)
    for story in (*stories, *reversed(stories), *stories):
        metrics.told(story)
    counted = samples(metrics, "requests_total")
    assert [value for _, value in counted] == [3] * len(stories)
    assert len({tuple(labels.items()) for labels, _ in counted}) == len(stories)


def test_attempts_are_counted_where_each_of_them_went(clock, tell):
    metrics = Metrics(lambda kind, name: True, clock)
    story = tell()
    story.tries.append(
        also(Try(2, "fallback", "azure", "gpt-4o", None), usage=Usage(input=7, source="provider"), cost_nanousd=1, first_byte=1.0)
    )
    metrics.told(story)
    spent = {labels["provider"]: value for labels, value in samples(metrics, "tokens_total") if labels["kind"] == "input"}
    assert spent == {"openai": 10, "azure": 7}
    assert [labels["provider"] for labels, _ in samples(metrics, "requests_total")] == ["azure"]
    assert [(labels["provider"], value) for labels, value in samples(metrics, "first_byte_seconds_sum")] == [("azure", 1.0)]


def test_a_new_policy_may_know_other_names(clock, tell):
    known = {kind: set(names) for kind, names in KNOWN.items()}
    metrics = Metrics(lambda kind, name: name in known[kind], clock)
    metrics.told(tell())
    known["model"] = set()
    metrics.policy(2)
    metrics.told(tell())
    assert [labels["model"] for labels, _ in samples(metrics, "requests_total")] == ["gpt-4o", "other"]


def test_a_caller_becomes_known_when_a_key_is_minted_for_it(clock, tell):
    known = {kind: set(names) for kind, names in KNOWN.items()}
    metrics = Metrics(lambda kind, name: name in known[kind], clock)
    ann = tell(caller=Caller("ann", "key"))
    metrics.told(ann)
    known["caller"].add("ann")
    metrics.told(ann)
    assert [labels["caller"] for labels, _ in samples(metrics, "requests_total")] == ["other", "ann"]


def test_names_that_callers_invent_take_no_memory(metrics, tell):
    for number in range(3 * metrics_module.MAX_SORTS):
        story = tell()
        story.tries[0].model = f"m{number}"
        metrics.told(story)
    assert len(metrics._sorts) <= metrics_module.MAX_SORTS
    assert samples(metrics, "requests_total")[0][1] == 3 * metrics_module.MAX_SORTS


def everybody_but(*strangers):
    return lambda kind, name: name not in strangers


def test_beyond_the_cap_all_callers_are_counted_in_one_place_and_those_before_it_each_in_its_own(clock, tell, monkeypatch):
    monkeypatch.setattr(metrics_module, "MAX_SERIES", 10)
    metrics = Metrics(everybody_but(), clock)
    for _ in range(3):
        metrics.policy(2)  # nothing is at hand any more
        for number in range(30):
            metrics.told(tell(caller=Caller(f"c{number}", "key")))
    (sort,) = metrics._sorts.values()
    assert len({id(cells) for cells in sort.callers.values()}) == 11
    counted = {labels["caller"]: value for labels, value in samples(metrics, "requests_total")}
    assert counted == {f"c{number}": 3 for number in range(10)} | {"other": 60}
    spent = {labels["caller"]: round(value * 1e9) for labels, value in samples(metrics, "cost_usd_total")}
    assert spent == {f"c{number}": 1500 for number in range(10)} | {"other": 30000}
    assert [labels for labels, _ in samples(metrics, "tokens_total")][-1] == dict.fromkeys((*BOT, "kind"), "other")


def test_a_caller_beyond_the_cap_is_counted_there_also_when_it_tries_again_elsewhere(clock, tell, monkeypatch):
    monkeypatch.setattr(metrics_module, "MAX_SERIES", 1)
    metrics = Metrics(everybody_but(), clock)
    metrics.told(tell())
    story = tell(caller=Caller("ann", "key"))
    story.tries.append(also(Try(2, "fallback", "azure", "gpt-4o", None), usage=Usage(input=7, source="provider"), cost_nanousd=1))
    metrics.told(story)
    assert [(labels["caller"], round(value * 1e9)) for labels, value in samples(metrics, "cost_usd_total")] == [
        ("bot", 500),
        ("other", 501),
    ]


def test_a_caller_whose_job_has_a_series_is_counted_in_it_also_beyond_the_cap(clock, tell, monkeypatch):
    monkeypatch.setattr(metrics_module, "MAX_SERIES", 1)
    metrics = Metrics(everybody_but(), clock)
    metrics.job(a_job(caller="ann"))
    metrics.told(tell())
    metrics.told(tell(caller=Caller("ann", "key", "premium", "finance")))
    assert [(labels["caller"], round(value * 1e9)) for labels, value in samples(metrics, "cost_usd_total")] == [
        ("ann", 1000),
        ("other", 500),
    ]


def test_strangers_are_never_at_hand_and_known_callers_in_bounded_number(clock, tell, monkeypatch):
    monkeypatch.setattr(metrics_module, "MAX_CALLERS", 5)
    metrics = Metrics(everybody_but(*(f"s{number}" for number in range(20))), clock)
    for number in range(20):
        for name in (f"s{number}", f"c{number}"):
            for operation in ("chat", "embeddings"):
                metrics.told(tell(caller=Caller(name, "jwt"), operation=operation))
    at_hand = [name for sort in metrics._sorts.values() for name in sort.callers]
    assert len(at_hand) <= 5 and not [name for name in at_hand if name.startswith("s")]
    counted = {(labels["caller"], labels["operation"]): value for labels, value in samples(metrics, "requests_total")}
    assert counted["other", "chat"] == 20 and counted["c0", "embeddings"] == 1 and len(counted) == 42


def test_seconds_wait_for_their_buckets_in_bounded_number(metrics, tell):
    for _ in range(1000):
        metrics.told(tell())
    waiting = [len(cell) for name in ("request_duration_seconds", "overhead_seconds", "first_byte_seconds")
               for cell in metrics._series[name].cells.values()]  # fmt: skip
    assert max(waiting) < MOST_WAITING
    assert samples(metrics, "request_duration_seconds_count") == [({"provider": "openai", "operation": "chat"}, 1000)]
    assert samples(metrics, "first_byte_seconds_sum") == [({"provider": "openai", "operation": "chat"}, 1000)]


def test_waits_of_all_kinds_of_calls_are_sorted_in_whichever_of_them_is_the_last_that_fits(metrics, tell):
    for number in range(1000):
        metrics.told(tell() if number % MOST_WAITING < 200 else tell(tries=[], status=429, end="refused:rate_limited"))
        waits = metrics._series["first_byte_seconds"].cells[("openai", "chat")]
        assert len(waits) < MOST_WAITING


def test_the_overhead_of_a_call_is_no_less_than_nothing(metrics, tell):
    for upstream_s in (2.5, 1.5):
        metrics.told(tell(upstream_s=upstream_s))
    where = {"provider": "openai", "operation": "chat"}
    assert samples(metrics, "overhead_seconds_sum") == [(where, 0.5)]
    assert samples(metrics, "overhead_seconds_count") == [(where, 2)]


@pytest.mark.parametrize(("error", "label"), [("connect", "connect"), ("503", "503"), ("overloaded <x>", "other"), ("12345", "other")])
def test_an_error_class_is_one_of_ours(metrics, error, label):
    metrics.retried("openai", None, error)
    assert samples(metrics, "retries_total") == [({"provider": "openai", "model": "", "error": label}, 1)]


def test_usage_that_no_provider_stated_is_counted(metrics, tell):
    story = tell()
    story.tries.append(also(Try(2, "retry", "openai", "gpt-4o", None), usage=Usage(input=1, source="estimate")))
    story.tries.append(also(Try(3, "retry", "openai", "gpt-4o", None), usage=Usage(input=1, source="counted")))
    metrics.told(story)
    target = {"provider": "openai", "model": "gpt-4o", "reason": "done"}
    assert samples(metrics, "estimated_usage_total") == [({**target, "source": "estimate"}, 1), ({**target, "source": "counted"}, 1)]


@pytest.mark.parametrize(
    ("note", "end", "reason"),
    [("unconfirmed", "refused:upstream_reset", "unconfirmed"), ("usage_missing,fallback_price", "done", "usage_missing"),
     ("fallback_price", "client_gone", "client_gone"), ("", "stopped:drain", "stopped")],
)  # fmt: skip
def test_an_estimated_charge_says_why_the_providers_figures_are_missing(metrics, tell, note, end, reason):
    story = tell()
    story.tries.append(also(Try(2, "retry", "openai", "gpt-4o", None), end=end, usage=Usage(input=1, source="counted", note=note)))
    metrics.told(story)
    assert [labels["reason"] for labels, _ in samples(metrics, "estimated_usage_total")] == [reason]


def test_what_a_crash_left_open_is_counted_as_estimated(metrics):
    metrics.recovered(0)
    assert samples(metrics, "estimated_usage_total") == []
    metrics.recovered(3)
    assert samples(metrics, "estimated_usage_total") == [({"provider": "", "model": "", "source": "estimate", "reason": "crashed"}, 3)]


def test_the_rest_of_the_port_counts(metrics):
    metrics.refused("rate_limited")
    metrics.fell_back("openai", "gpt-4o")
    metrics.unpriced("openai", "gpt-4o", "unmetered")
    metrics.policy(3)
    metrics.reload_failed()
    metrics.jwks_failed()
    values = {
        name: samples(metrics, name)[0][1]
        for name in (
            "refusals_total",
            "fallbacks_total",
            "unpriced_total",
            "policy_generation",
            "policy_reload_failed_total",
            "jwks_failed_total",
        )
    }
    assert values == dict.fromkeys(values, 1) | {"policy_generation": 3}


@pytest.mark.parametrize(("state", "value"), [("closed", 0), ("probing", 1), ("open", 2)])
def test_a_breaker_shows_its_state(metrics, state, value):
    metrics.breaker("openai", "gpt-4o", "open")
    metrics.breaker("openai", "gpt-4o", state)
    assert samples(metrics, "breaker_state") == [({"provider": "openai", "model": "gpt-4o"}, value)]


def test_of_models_without_a_label_of_their_own_the_worst_state_shows(clock):
    metrics = Metrics(lambda kind, name: kind != "model", clock)
    metrics.breaker("openai", "sick", "open")
    metrics.breaker("openai", "well", "half_open")
    metrics.breaker("openai", "well", "closed")
    assert samples(metrics, "breaker_state") == [({"provider": "openai", "model": "other"}, 2)]
    metrics.breaker("openai", "sick", "closed")
    assert samples(metrics, "breaker_state") == [({"provider": "openai", "model": "other"}, 0)]


def standing(remaining, allowed=100):
    return Standing("tier free", "spend", allowed, remaining, 0, 60)


def test_a_limit_shows_its_fullest_account_of_the_last_minutes(metrics, clock):
    def ratio():
        return round(samples(metrics, "limit_used_ratio")[0][1], 3)

    metrics.limits(Standings.of([standing(10), standing(90)], 0), clock.monotonic())
    assert ratio() == 0.9
    clock.at += 60
    assert ratio() == 0.9
    metrics.limits(Standings.of([standing(40)], 0), clock.monotonic())
    assert ratio() == 0.9
    clock.at += 60
    metrics.limits(Standings.of([standing(80)], 0), clock.monotonic())
    assert ratio() == 0.6
    clock.at += 120
    assert ratio() == 0
    metrics.limits(Standings.of([standing(0, allowed=0)], 0), clock.monotonic())
    assert ratio() == 1


def test_what_callers_had_left_counts_in_the_minute_they_had_it_however_few_waited_to_be_looked_at(metrics, clock):
    def ratio():
        return round(samples(metrics, "limit_used_ratio")[0][1], 3)

    metrics.limits(Standings.of([standing(10)], 0), clock.monotonic())
    clock.at += 60
    metrics.limits(Standings.of([standing(40)], 0), clock.monotonic())
    clock.at += 60
    assert ratio() == 0.6
    for remaining in range(100, 25, -1):
        metrics.limits(Standings.of([standing(remaining)], 0), clock.monotonic())
    assert all(len(left.rows) < 32 for left in metrics._left.values()) and ratio() == 0.74


def test_what_waits_to_be_looked_at_is_not_lost_with_an_old_policy_or_too_many_limits(metrics, clock):
    metrics.limits(Standings.of([standing(10)], 0), clock.monotonic())
    metrics.policy(2)
    assert round(samples(metrics, "limit_used_ratio")[0][1], 3) == 0.9
    metrics.limits(Standings.of([standing(1)], 0), clock.monotonic())
    for number in range(1500):
        metrics.limits(Standings.of([standing(50, allowed=100 + number)], 0), clock.monotonic())
    assert round(samples(metrics, "limit_used_ratio")[0][1], 3) == 0.99


def test_limits_are_told_apart_whoever_was_counted_before_and_also_after_a_new_policy(metrics, clock):
    other = Standing("team ops", "spend", 100, 30, 0, 60)
    for told in ([standing(40)], [other], [other, standing(35)]):
        metrics.limits(Standings.of(told, 0), clock.monotonic())
    metrics.policy(2)
    metrics.limits(Standings.of([standing(20)], 0), clock.monotonic())
    assert [(labels["limit"], round(value, 3)) for labels, value in samples(metrics, "limit_used_ratio")] == [
        ("tier free", 0.8), ("team ops", 0.7),
    ]  # fmt: skip


def test_only_so_many_sets_of_limits_are_remembered(metrics, clock):
    for number in range(1500):
        metrics.limits(Standings.of([standing(50, allowed=100 + number)], 0), clock.monotonic())
    assert len(metrics._left) <= 1024


def test_a_limit_that_refuses_shows_how_full_it_is(metrics):
    metrics.used("tier free", "spend", 0.91)
    assert samples(metrics, "limit_used_ratio") == [({"limit": "tier free", "kind": "spend"}, 0.91)]


def test_figures_kept_elsewhere_are_read_at_the_scrape(metrics):
    lag = [0.5]
    metrics.read_from("loop_lag_seconds", lambda: lag[0])
    assert samples(metrics, "loop_lag_seconds") == [({}, 0.5)]
    with pytest.raises(ValueError, match="has labels"):
        metrics.read_from("requests_total", lambda: 1)


def test_hashed_identities_show_in_labels(clock, tell):
    metrics = Metrics(is_known, clock, shown=lambda name: "id:" + name[::-1])
    metrics.told(tell())
    assert samples(metrics, "requests_total")[0][0]["caller"] == "id:tob"


def a_job(**changed):
    nothing = dict.fromkeys(Row._fields) | {"cached_input_tokens": 0, "cache_write_tokens": 0, "reasoning_tokens": 0}
    said = {"provider": "openai", "model": "gpt-4o", "caller": "bot", "team": "finance", "tier": "premium", "end": "crashed"}
    used = {"input_tokens": 10, "output_tokens": 5, "cost_nanousd": 500, "usage_source": "provider", "usage_note": ""}
    return Row(**{**nothing, **said, **used, **changed})


def test_a_job_that_is_settled_is_counted_for_whoever_began_it(metrics):
    metrics.job(a_job())
    assert samples(metrics, "cost_usd_total") == [(BOT, 5e-7)]
    assert {labels["kind"]: value for labels, value in samples(metrics, "tokens_total")} == {"input": 10, "output": 5}
    assert samples(metrics, "estimated_usage_total") == []
    metrics.job(a_job(caller="invented", usage_source="estimate", usage_note="usage_missing"))
    assert samples(metrics, "cost_usd_total") == [(BOT, 5e-7), ({**BOT, "caller": "other"}, 5e-7)]
    assert [labels["reason"] for labels, _ in samples(metrics, "estimated_usage_total")] == ["usage_missing"]


def test_a_job_of_a_caller_whose_name_is_hidden_is_counted_under_the_name_that_shows(clock, tell):
    metrics = Metrics(is_known, clock, shown=lambda name: "id:" + name[::-1])
    metrics.told(tell())
    metrics.job(a_job(caller="id:tob"))
    assert samples(metrics, "cost_usd_total") == [({**BOT, "caller": "id:tob"}, 1e-6)]


def test_the_tokens_of_a_read_back_are_those_of_another_call(metrics, tell):
    story = tell()
    story.tries[0].is_read_back, story.tries[0].cost_nanousd = True, 0
    metrics.told(story)
    assert samples(metrics, "tokens_total") == samples(metrics, "cost_usd_total") == []
