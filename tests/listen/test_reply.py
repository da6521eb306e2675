import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import Spoken
from proxy.listen.reply import Refused, cors_headers, field_value, our_lines, preflight_headers, reply_headers, said_in, said_of
from proxy.standings import Standing, Standings

REQUESTS = Standing("tier free", "requests", 10, 4, 1060, 60)
TOKENS = Standing("tier free", "tokens", 1000, 100, 1030, 60)
MONEY = Standing("team finance", "spend", 5_000_000_000, 1, 9999, 86400)


def headers_of(*args, standings=(), limit=None, kind=None, retry_after=None, **kw):
    no = Refused(limit, kind, retry_after) if limit or retry_after is not None else None
    return reply_headers("req-1", *args, standings=Standings.of(standings, 1000), no=no, **kw)


def test_the_id_becomes_x_request_id_only_where_the_provider_sent_none():
    assert dict(headers_of())[b"x-request-id"] == b"req-1"
    theirs = ((b"X-Request-Id", b"theirs"),)
    assert [value for name, value in headers_of(theirs) if name.lower() == b"x-request-id"] == [b"theirs"]
    assert dict(headers_of(theirs))[b"x-sluice-request-id"] == b"req-1"
    assert our_lines("req-1", said_in(theirs)) == b"x-sluice-request-id: req-1"
    assert our_lines("req-1", said_in(theirs), theirs=b"a: b") == b"a: b\r\nx-sluice-request-id: req-1"


def test_the_providers_lines_come_first_and_unchanged():
    theirs = ((b"Server-Timing", b"a;dur=1"), (b"Retry-After", b"3"))
    ours = headers_of(theirs, overhead_ms=1.26)
    assert ours[:2] == theirs
    assert (b"server-timing", b"sluice;dur=1.3") in ours


def test_rate_headers_tell_the_tightest_count_and_never_money():
    ours = dict(headers_of(standings=(REQUESTS, TOKENS, MONEY)))
    assert ours[b"x-sluice-limit"] == b"team finance"
    assert (ours[b"x-ratelimit-limit"], ours[b"x-ratelimit-remaining"], ours[b"x-ratelimit-reset"]) == (b"1000", b"100", b"1030")
    assert ours[b"ratelimit-policy"] == b'"tier free requests";q=10;w=60, "tier free tokens";q=1000;qu="tokens";w=60'
    assert ours[b"ratelimit"] == b'"tier free requests";r=4;t=60, "tier free tokens";r=100;t=30'


def test_slots_have_their_unit_and_no_window():
    ours = dict(headers_of(standings=(Standing("tier free", "concurrency", 5, 2, 1000, 0),)))
    assert ours[b"ratelimit-policy"] == b'"tier free concurrency";q=5;qu="concurrent-requests"'
    assert ours[b"ratelimit"] == b'"tier free concurrency";r=2' and b"x-ratelimit-limit" not in ours


def test_two_windows_of_one_limit_have_two_names():
    hour = Standing("tier free", "requests", 100, 90, 4600, 3600)
    ours = dict(headers_of(standings=(REQUESTS, hour)))
    assert ours[b"ratelimit-policy"] == b'"tier free requests 60s";q=10;w=60, "tier free requests 3600s";q=100;w=3600'
    assert ours[b"ratelimit"] == b'"tier free requests 60s";r=4;t=60, "tier free requests 3600s";r=90;t=3600'


def test_a_refusal_shows_what_refused_and_no_window_ends_after_its_retry_after():
    full = Standing("limit few", "requests", 3, 0, 1050, 60)
    ours = dict(headers_of(standings=(TOKENS, full), status=429, limit="limit few", kind="requests", retry_after=19.2))
    assert (ours[b"x-ratelimit-limit"], ours[b"x-ratelimit-remaining"], ours[b"x-ratelimit-reset"]) == (b"3", b"0", b"1050")
    assert ours[b"ratelimit"] == b'"tier free tokens";r=100;t=20, "limit few requests";r=0;t=20'


def test_a_limit_of_money_alone_is_named_without_amounts():
    ours = dict(headers_of(standings=(MONEY,)))
    assert ours[b"x-sluice-limit"] == b"team finance"
    assert not any(name.startswith((b"x-ratelimit", b"ratelimit")) for name in ours)


def test_names_that_the_provider_sent_are_left_to_it():
    theirs = ((b"X-RateLimit-Limit", b"9"), (b"ratelimit", b"x"))
    assert [name for name, _ in headers_of(theirs, standings=(REQUESTS,)) if b"ratelimit" in name.lower()] == [
        b"X-RateLimit-Limit",
        b"ratelimit",
    ]


def test_an_error_that_no_limit_caused_names_no_reset_to_wait_for():
    assert {b"x-ratelimit-remaining", b"x-sluice-limit"} <= dict(headers_of(standings=(TOKENS,), status=503)).keys()
    assert b"x-ratelimit-reset" not in dict(headers_of(standings=(TOKENS,), status=503))
    assert dict(headers_of(standings=(TOKENS,), status=429, limit="tier free"))[b"x-ratelimit-reset"] == b"1030"


def test_a_refusing_limit_is_named_before_the_tightest():
    assert dict(headers_of(standings=(REQUESTS,), limit="limit gpt"))[b"x-sluice-limit"] == b"limit gpt"


def test_tightest_is_the_smallest_share_and_a_limit_of_zero_is_the_tightest_of_all():
    nothing = Standing("none", "requests", 0, 0, 0, 60)
    for standings, tightest in (((REQUESTS, TOKENS), TOKENS), ((REQUESTS, nothing), nothing)):
        ours = dict(headers_of(standings=standings))
        assert ours[b"x-sluice-limit"].decode() == tightest.limit and int(ours[b"x-ratelimit-limit"]) == tightest.allowed


def test_our_retries_replace_the_providers_advice():
    theirs = ((b"X-Should-Retry", b"true"), (b"a", b"b"))
    assert headers_of(theirs, should_retry=False)[0] == (b"a", b"b")
    assert [value for name, value in headers_of(theirs, should_retry=False) if name.lower() == b"x-should-retry"] == [b"false"]
    assert headers_of(theirs)[0] == theirs[0]


def test_provider_attempts_model_and_guard_are_told_where_known():
    found = {
        ("email", "request", "mask"): 2,
        ("phone", "request", "mask"): 1,
        ("email", "answer", "mask"): 1,
        ("iban", "request", "flag"): 1,
    }
    ours = dict(headers_of(provider="openai", attempts=2, model="gpt-4o-mini", found=found))
    assert ours[b"x-sluice-guard"] == b"masked email=3 phone=1; flagged iban=1"
    assert (ours[b"x-sluice-provider"], ours[b"x-sluice-attempts"], ours[b"x-sluice-model"]) == (b"openai", b"2", b"gpt-4o-mini")
    assert set(dict(headers_of())) == {b"x-sluice-request-id", b"x-request-id"}


def test_no_name_can_split_a_header_line_or_a_quoted_string():
    assert field_value("a\r\nSet-Cookie: é") == b"a??Set-Cookie: ?"
    odd = Standing('a"\\b', "requests", 1, 1, 0, 60)
    assert dict(headers_of(standings=(odd,)))[b"ratelimit"] == b'"a??b requests";r=1;t=0'


ORIGINS = ("https://console.example",)


def test_a_listed_origin_may_read_replies_and_others_are_left_alone():
    assert (b"access-control-allow-origin", b"https://console.example") in cors_headers({"origin": ORIGINS[0]}, ORIGINS)
    assert cors_headers({"origin": "https://evil.example"}, ORIGINS) == cors_headers({}, ORIGINS) == ()


def test_a_preflight_of_a_listed_origin_is_answered_here():
    fields = {"origin": ORIGINS[0], "access-control-request-method": "POST", "access-control-request-headers": "authorization, x-a"}
    assert dict(preflight_headers("OPTIONS", fields, ORIGINS))[b"access-control-allow-headers"] == b"authorization, x-a"
    assert (
        dict(preflight_headers("OPTIONS", fields | {"access-control-request-headers": "a\x00"}, ORIGINS))[b"access-control-allow-headers"]
        == b""
    )


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("POST", {"origin": ORIGINS[0], "access-control-request-method": "POST"}),
        ("OPTIONS", {"origin": ORIGINS[0]}),
        ("OPTIONS", {"origin": "https://evil.example", "access-control-request-method": "POST"}),
    ],
)
def test_what_is_no_preflight_of_a_listed_origin_goes_on(method, fields):
    assert preflight_headers(method, fields, ORIGINS) is None


def test_what_others_use_of_a_shared_account_is_not_told():
    shared = Standing("team finance", "requests", 10, 1, 1_060, 60, is_shared=True)
    own = Standing("tier free", "tokens", 100, 90, 1_060, 60)
    lines = dict(reply_headers("id", standings=Standings.of((shared, own), 1_000)))
    assert lines[b"x-sluice-limit"] == b"team finance" and lines[b"x-ratelimit-remaining"] == b"90"
    assert b"finance" not in lines[b"ratelimit"] + lines[b"ratelimit-policy"]


UNITS = {"requests": "", "tokens": ';qu="tokens"', "concurrency": ';qu="concurrent-requests"'}


def plainly(answer, standings, now_s, status, limit, kind, retry_after):
    """What is said of limits, in the plainest words: the reference of the property below."""
    sent = {name.lower() for name, _ in answer}
    shares = {id(at): at.remaining / at.allowed if at.allowed else 0.0 for at in standings}
    first = min(standings, key=lambda at: shares[id(at)], default=None)
    lines = {"x-sluice-limit": limit or first.limit} if limit or first else {}
    counted = [at for at in standings if at.kind in UNITS and not at.is_shared]
    rates = [at for at in counted if at.kind != "concurrency"]
    rate = min([at for at in rates if (at.limit, at.kind) == (limit, kind)] or rates, key=lambda at: shares[id(at)], default=None)
    if rate and sent.isdisjoint((b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset")):
        lines |= {"x-ratelimit-limit": rate.allowed, "x-ratelimit-remaining": rate.remaining}
        if status < 400 or limit is not None:
            lines["x-ratelimit-reset"] = rate.resets_at
    policies, left = [], []
    for at in counted:
        is_one = sum((other.limit, other.kind) == (at.limit, at.kind) for other in counted) == 1
        name = f"{at.limit} {at.kind}" + ("" if is_one or not at.window_s else f" {at.window_s}s")
        name = '"' + name.replace("\\", "?").replace('"', "?") + '"'
        policies.append(f"{name};q={at.allowed}{UNITS[at.kind]}" + (f";w={at.window_s}" if at.window_s else ""))
        until = max(0, at.resets_at - int(now_s))
        until = until if retry_after is None else min(until, math.ceil(retry_after))
        left.append(f"{name};r={at.remaining}" + (f";t={until}" if at.window_s else ""))
    if counted and sent.isdisjoint((b"ratelimit", b"ratelimit-policy")):
        lines |= {"ratelimit-policy": ", ".join(policies), "ratelimit": ", ".join(left)}
    return {name.encode(): str(said).encode() for name, said in lines.items()}


STANDING = st.builds(
    Standing,
    st.sampled_from(["tier free", "limit 100%d", 'odd"name']),
    st.sampled_from(["requests", "tokens", "spend", "concurrency"]),
    st.sampled_from([0, 1, 10, 10**12]),
    st.sampled_from([0, 1, 9, 10**11]),
    st.sampled_from([0, 900, 1030, 9999]),
    st.sampled_from([0, 60, 86400]),
    st.booleans(),
)
THEIRS = st.lists(
    st.sampled_from([b"X-Request-Id", b"X-RateLimit-Reset", b"RateLimit", b"x-ratelimit-limit", b"Date"]), unique=True, max_size=3
)


@given(
    standings=st.lists(STANDING, max_size=6),
    theirs=THEIRS,
    status=st.sampled_from([200, 429, 503]),
    no=st.sampled_from([(None, None, None), ("tier free", "requests", 19.2), ("tier free", "spend", None), ("limit 100%d", "tokens", 0.5)]),
)
def test_what_is_said_of_limits_is_what_the_plainest_words_say(standings, theirs, status, no):
    limit, kind, retry_after = no
    answer = tuple((name, b"theirs") for name in theirs)
    lines = headers_of(answer, standings=standings, status=status, limit=limit, kind=kind, retry_after=retry_after, overhead_ms=0.04)
    assert lines[: len(answer)] == answer
    ours = lines[len(answer) :]
    apart = (b"x-sluice-request-id", b"x-request-id", b"server-timing")
    expected = plainly(answer, standings, 1000.0, status, limit, kind, retry_after)
    assert [line for line in ours if line[0] not in apart] == list(expected.items())
    assert (b"x-request-id", b"req-1") in ours or b"X-Request-Id" in theirs


def test_our_lines_as_they_are_written_are_the_same_lines():
    given = {
        "overhead_ms": 1.26,
        "standings": (REQUESTS, MONEY),
        "provider": "100% own",
        "attempts": 2,
        "model": "m",
        "reserved_nanousd": 1,
    }
    rest = {"cost_nanousd": 1_000_000_002, "found": {("email", "request", "mask"): 2}, "should_retry": True}
    written = our_lines("req-1", 0, **given | {"standings": Standings.of(given["standings"], 1000)}, **rest)
    assert [tuple(line.split(b": ", 1)) for line in written.split(b"\r\n")] == list(headers_of(**given, **rest))
    assert b"x-sluice-provider: 100% own\r\n" in written and b"x-sluice-cost-usd: 1.000000002\r\n" in written


def test_a_line_of_ours_cannot_be_split_by_a_name_of_the_policy():
    written = our_lines("a\r\nb", 0, standings=Standings.of([Standing("x\r\ny: z", "requests", 1, 1, 0, 60)], 1000), provider="p\nq")
    assert b"\r" not in written.replace(b"\r\n", b"") and b"\n" not in written.replace(b"\r\n", b"")
    assert all(line.partition(b":")[0].startswith((b"x-sluice-", b"x-r", b"ratelimit")) for line in written.split(b"\r\n"))


def test_what_the_provider_has_said_may_be_told_as_worked_out_before():
    answer = SimpleNamespace(headers=((b"X-Request-Id", b"theirs"), (b"RateLimit", b"x")), said=Spoken())
    for _ in range(2):
        assert said_of(answer) == said_in(answer.headers) != 0
    assert said_of(SimpleNamespace(headers=(), said=Spoken())) == 0


def test_the_lines_of_the_provider_stand_before_ours_as_they_came():
    ours = our_lines("r", 0, Standings.of((REQUESTS,), 1000), overhead_ms=0.1)
    assert our_lines("r", 0, Standings.of((REQUESTS,), 1000), overhead_ms=0.1, theirs=b"a: 100%\r\nb: c") == b"a: 100%\r\nb: c\r\n" + ours
    assert our_lines("r", 0, Standings.of((REQUESTS,), 1000), overhead_ms=0.1, theirs=b"") == ours


def test_what_is_worked_out_once_for_a_form_is_not_taken_for_another():
    def told(*standings, **more):
        return our_lines("r", 0, Standings.of(standings, 1000), **more)

    def another(name, remaining=4):
        return Standing(name, "requests", 10, remaining, 1060, 60)

    forms = [
        told(REQUESTS),
        told(TOKENS),
        told(REQUESTS, TOKENS),
        told(another("x")),
        told(REQUESTS, provider="p"),
        told(REQUESTS, attempts=2),
    ]
    forms += [told(REQUESTS, overhead_ms=0.0), told(REQUESTS, status=500), told(REQUESTS, reserved_nanousd=1), told(another("x", 3))]
    assert len(set(forms)) == len(forms) and told(REQUESTS) == forms[0]
