import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import Route
from proxy.listen.headers import (
    MAX_HEAD,
    ByName,
    answer_headers,
    check_handshake,
    check_head,
    fields_of,
    forwardable,
    ids,
    narrowed_accept_encoding,
    read_call,
)
from proxy.refusal import Refusal

ROUTE = Route("openai", "/v1/models", "", "/v1/models")


def call_with(method="GET", **fields):
    raw = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in fields.items())
    return read_call(method, ROUTE, raw, fields_of(raw), uid="slu-a-1", peer="127.0.0.1", at_ns=1, began=2.0)


def refused(action, *args):
    with pytest.raises(Refusal) as no:
        action(*args)
    return no.value.status, no.value.code


def test_fields_join_repeated_lines_and_keep_every_byte():
    raw = ((b"X-A", b"1"), (b"x-a", b"caf\xc3\xa9"), (b"Accept", b"*/*"))
    assert fields_of(raw) == {"x-a": "1, caf\xc3\xa9", "accept": "*/*"}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"Authorization", "ambiguous_credentials"),
        (b"x-api-key", "ambiguous_credentials"),
        (b"x-goog-api-key", "ambiguous_credentials"),
        (b"Content-Type", "invalid_request"),
        (b"Host", "invalid_request"),
        (b"Expect", "invalid_request"),
    ],
)
def test_a_repeated_header_that_must_stand_once_is_400(name, code):
    assert refused(fields_of, ((name, b"a"), (name.upper(), b"a"))) == (400, code)


def test_header_lines_above_64_kib_together_are_431():
    line = (b"x", b"a" * 8000)
    assert fields_of((line,) * 8)
    assert refused(fields_of, (line,) * (MAX_HEAD // 8000 + 1)) == (431, "headers_too_large")


@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("TRACE", {}, 405),
        ("CONNECT", {}, 405),
        ("PURGE", {}, 405),
        ("GET", {"host": "u:p@evil"}, 400),
        ("GET", {"host": "a b"}, 400),
        ("GET", {"host": "a/b"}, 400),
        ("GET", {"host": "a:b"}, 400),
        ("POST", {"expect": "foo"}, 417),
        ("GET", {"content-length": "5"}, 400),
        ("HEAD", {"transfer-encoding": "chunked"}, 400),
        ("POST", {"x-http-method-override": "DELETE"}, 400),
        ("POST", {"x-original-url": "/admin"}, 400),
        ("POST", {"connection": "close, Authorization"}, 400),
    ],
)
def test_a_head_that_cannot_be_served_is_refused(method, fields, status):
    assert refused(check_head, method, fields, None)[0] == status


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("DELETE", {"content-length": "5"}),
        ("GET", {"content-length": "0"}),
        ("OPTIONS", {}),
        ("PATCH", {"host": "[::1]:8080"}),
        ("POST", {"host": "", "expect": "100-Continue", "connection": "keep-alive, x-mine"}),
    ],
)
def test_a_good_head_passes(method, fields):
    check_head(method, fields, None)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:9", "localhost."])
def test_a_listed_host_passes_with_any_port(host):
    check_head("GET", {"host": host}, ("Localhost", "127.0.0.1", "::1"))


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.2"])
def test_a_host_outside_the_list_is_421(host):
    assert refused(check_head, "GET", {"host": host}, ("localhost", "127.0.0.1")) == (421, "wrong_host")


def test_a_listed_host_may_name_its_port():
    check_head("GET", {"host": "gate:8080"}, ("gate:8080",))
    assert refused(check_head, "GET", {"host": "gate:8081"}, ("gate:8080",)) == (421, "wrong_host")


@pytest.mark.parametrize(
    ("asked", "is_kept"), [("req.1:A_b-9", True), ("a" * 128, True), ("a" * 129, False), ("", False), ("a b", False), ("é", False)]
)
def test_a_well_formed_request_id_is_the_callers_else_it_is_ours(asked, is_kept):
    call = call_with(x_request_id=asked)
    assert (call.id, call.id_is_callers) == ((asked, True) if is_kept else ("slu-a-1", False))
    assert call.uid == "slu-a-1"


def test_ids_are_well_formed_and_never_repeat():
    made = ids("0f" * 8)
    seen = [next(made) for _ in range(1000)]
    assert len(set(seen)) == 1000
    assert all(call_with(x_request_id=one).id_is_callers for one in seen)


@pytest.mark.parametrize(
    "fields",
    [
        {"sec_websocket_version": "8", "sec_websocket_key": "k", "connection": "Upgrade"},
        {"sec_websocket_version": "13", "connection": "Upgrade"},
        {"sec_websocket_version": "13", "sec_websocket_key": "k", "connection": "keep-alive"},
        {"sec_websocket_version": "13", "sec_websocket_key": "k"},
    ],
)
def test_a_websocket_handshake_that_is_none_is_400(fields):
    assert refused(check_handshake, call_with(upgrade="websocket", **fields))[0] == 400


def test_a_websocket_handshake_of_version_13_passes():
    fields = {"sec_websocket_version": "13", "sec_websocket_key": "k", "connection": "keep-alive, Upgrade"}
    check_handshake(call_with(**fields))
    assert refused(check_handshake, call_with("POST", **fields))[0] == 400


STAYS = [
    b"Connection", b"Keep-Alive", b"TE", b"Trailer", b"Transfer-Encoding", b"Upgrade", b"Proxy-Authorization", b"Proxy-Connection",
    b"HTTP2-Settings", b"Content-Length", b"Host", b"Expect", b"Cookie", b"X-Sluice-Anything", b"X-Portkey-Custom-Host", b"api-base",
    b"X-Forwarded-Host", b"base_url", b"X_Api_Key", b"Content_Type", b"x_sluice_team",
]  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_a_header_that_must_not_travel_is_left_behind(name):
    kept = ((b"Authorization", b"Bearer x"), (b"X-Custom_Thing", b"y"), (b"x-request-id", b"z"))
    assert forwardable((kept[0], (name, b"close"), *kept[1:])) == kept


def test_what_connection_names_is_left_behind_both_ways():
    raw = ((b"A", b"1"), (b"X-Hop", b"2"), (b"Connection", b"close, X-HOP"), (b"connection", b"x-two"), (b"X-Two", b"3"))
    assert forwardable(raw) == answer_headers(raw) == ((b"A", b"1"),)


def test_an_underscore_twin_of_a_header_that_is_present_is_left_behind():
    raw = ((b"X-User-Id", b"1"), (b"x_user_id", b"2"), (b"x_other", b"3"))
    assert forwardable(raw) == ((b"X-User-Id", b"1"), (b"x_other", b"3"))


def test_the_answer_keeps_everything_but_framing_cookies_and_our_own_names():
    kept = ((b"Content-Type", b"a"), (b"x-request-id", b"r"), (b"num_tokens", b"3"), (b"X-Request-Id", b"again"), (b"Alt-Svc", b"h3"))
    lost = (
        (b"Set-Cookie", b"c"),
        (b"x-sluice-limit", b"l"),
        (b"transfer-encoding", b"chunked"),
        (b"Content-Length", b"4"),
        (b"Keep-Alive", b"t"),
    )
    assert answer_headers(kept + lost) == kept
    assert answer_headers(((b"Content-Length", b"4"),), is_bodiless=True) == ((b"Content-Length", b"4"),)


ANSWER = st.lists(
    st.tuples(
        st.sampled_from([b"Connection", b"connection", b"Close", b"Keep-Alive", b"X-Hop", b"Date", b"X-Sluice-Tag", b"Set-Cookie2", b"TE"]),
        st.sampled_from([b"close", b"keep-alive", b"x-hop, Date", b"", b"1"]),
    ),
    max_size=6,
).map(tuple)


@given(answer=ANSWER)
def test_what_a_connection_line_of_the_answer_names_is_left_behind_whatever_it_says(answer):
    named = {token.strip().lower() for name, said in answer if name.lower() == b"connection" for token in said.split(b",")}
    stay = {b"connection", b"keep-alive", b"te", b"set-cookie2", b"x-sluice-tag"} | named
    assert answer_headers(answer) == tuple(line for line in answer if line[0].lower() not in stay)


def test_names_of_headers_are_remembered_up_to_a_bound():
    flags = ByName(lambda name: name == b"a")
    assert flags[b"A"] is flags[b"a"] is True and flags[b"B"] is False
    for number in range(5000):
        assert flags[b"x-%d" % number] is False
    flags[b"y" * 100]
    assert len(flags) <= 1024 and all(len(name) < 100 for name in flags)


@pytest.mark.parametrize(
    ("value", "narrowed"),
    [
        (None, None),
        ("gzip, deflate", "gzip, deflate"),
        ("gzip,deflate;q=0.5", "gzip,deflate;q=0.5"),
        ("gzip, deflate, br, zstd", "gzip, deflate"),
        ("br;q=1.0, GZIP;q=0.8, *;q=0.1", "GZIP;q=0.8"),
        ("br, zstd", "identity"),
        ("*", "identity"),
        ("", "identity"),
        ("identity;q=0, gzip", "identity;q=0, gzip"),
    ],
)
def test_accept_encoding_is_narrowed_never_widened_never_invented(value, narrowed):
    assert narrowed_accept_encoding(value) == narrowed


@given(
    st.lists(
        st.tuples(st.sampled_from(["gzip", "br", "deflate", "zstd", "identity", "*", "x"]), st.sampled_from(["", ";q=0.5", ";q=0"])),
        max_size=6,
    )
)
def test_a_narrowed_accept_encoding_holds_only_what_the_client_offered(items):
    offered = [coding + quality for coding, quality in items]
    narrowed = narrowed_accept_encoding(", ".join(offered))
    left = [one for one in offered if one.partition(";")[0] in ("gzip", "deflate", "identity")]
    assert narrowed.split(", ") == (left or ["identity"])
