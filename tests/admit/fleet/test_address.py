"""The URL of a shared state."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admit.fleet.address import PARAMETERS, SCHEMES, Address, read_address
from proxy.policy.model import STATE_SCHEMES


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://cache", Address("single", (("cache", 6379),))),
        ("redis://cache/", Address("single", (("cache", 6379),))),
        ("redis://10.0.0.1:7000/3", Address("single", (("10.0.0.1", 7000),), db=3)),
        ("redis://[::1]:7000", Address("single", (("::1", 7000),))),
        ("redis://[::1]", Address("single", (("::1", 6379),))),
        ("redis://me:a%2Fb%40c@cache/0", Address("single", (("cache", 6379),), user="me", password="a/b@c")),
        ("redis://:p:q@cache", Address("single", (("cache", 6379),), password="p:q")),
        ("redis://me:p@q@cache", Address("single", (("cache", 6379),), user="me", password="p@q")),
        ("rediss://a?ca=/a&cert=/c&key=/k", Address("single", (("a", 6379),), is_tls=True, ca="/a", cert="/c", key="/k")),
        ("redis://cache?journal=/var/lib/my%20sluice", Address("single", (("cache", 6379),), journal="/var/lib/my sluice")),
        ("redis://cache?journal=/a+b", Address("single", (("cache", 6379),), journal="/a+b")),
        ("redis+sentinel://a:1,b,c:3/main", Address("sentinel", (("a", 1), ("b", 26379), ("c", 3)), "main")),
        (
            "rediss+sentinel://u:p@a:1/main/2?sentinel_user=s&sentinel_password=t",
            Address("sentinel", (("a", 1),), "main", 2, "u", "p", "s", "t", is_tls=True),
        ),
        ("redis+cluster://a:1,[fe80::1]:2", Address("cluster", (("a", 1), ("fe80::1", 2)))),
    ],
)  # fmt: skip
def test_a_url_says_where_the_state_is_and_who_enters(url, address):
    assert read_address(url) == address


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://cache", "is redis[s]://"),
        ("redis:cache", "is redis[s]://"),
        ("redis://", "names no host"),
        ("redis://::1", "an IPv6 address stands in [ ]"),
        ("redis://a b", "names no host"),
        ("redis://cache:0", "from 1 to 65535"),
        ("redis://cache:", "from 1 to 65535"),
        ("redis://cache:65536", "from 1 to 65535"),
        ("redis://[::1]x", "from 1 to 65535"),
        ("redis://a,b", "several hosts need redis+sentinel://"),
        ("redis://cache/one", "is a number"),
        ("redis://cache/1/2", "nothing follows it"),
        ("redis://cache/-1", "is a number"),
        ("redis://cache/٣", "is a number"),
        ("redis://someone@cache", "a user without a password"),
        ("redis+sentinel://a:1", "needs the name of the master"),
        ("redis+sentinel://a:1/main/x", "is a number"),
        ("redis+cluster://a:1/1", "no numbered databases"),
        ("redis://cache?jornal=/x", "did you mean `journal`?"),
        ("redis://cache?ttl=3", "it takes journal, ca"),
        ("redis://cache?journal=", "once, with a value"),
        ("redis://cache?journal=/a&journal=/b", "once, with a value"),
        ("redis://cache?ca=/a.pem", "say rediss://"),
        ("rediss://cache?cert=/a.pem", "stand together"),
        ("redis://cache?sentinel_user=x", "are for redis+sentinel://"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_write_instead(url, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        read_address(url)


def test_a_password_is_in_no_text_of_an_address():
    address = read_address("rediss+sentinel://me:hunter2@a:1,b:2/main/1?sentinel_user=s&sentinel_password=hunter3")
    assert "hunter" not in f"{address} {address!r}"
    assert str(address) == "rediss+sentinel://a:1,b:2/main/1"


def test_a_new_password_or_journal_names_the_same_state():
    assert str(read_address("redis://a:b@cache")) == str(read_address("redis://c:d@cache/0?journal=/x")) == "redis://cache:6379/0"
    assert str(read_address("redis+cluster://[::1]:1,b:2")) == "redis+cluster://[::1]:1,b:2"


SECRET = "hunTer2xyzzy"


@given(
    st.sampled_from(sorted(SCHEMES)),
    st.text("@:/?#&=[],% .hT" + SECRET, max_size=12),
    st.sampled_from(("", "@cache", "/", "?", "&", ":", "=")),
)
def test_whatever_the_url_a_refusal_repeats_none_of_it(scheme, noise, after):
    try:
        read_address(f"{scheme}://{noise}{SECRET}{after}{noise}")
    except ValueError as no:
        assert SECRET not in str(no)
        assert no.__cause__ is None


def test_the_policy_takes_every_scheme_of_a_shared_state():
    assert {f"{scheme}://" for scheme in SCHEMES} | {"sqlite:", "memory:"} == set(STATE_SCHEMES)
    assert len(set(PARAMETERS)) == len(PARAMETERS)
