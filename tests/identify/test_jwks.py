"""Key sets over real sockets: cached, bounded, never fetched in a storm, and the last good one survives its issuer."""

import asyncio
import json

import pytest
from aiohttp import web

from proxy.identify.jwks import MAX_KEYS, Jwks, JwksProblem, is_fetchable, read_set
from proxy.refusal import Refusal


def set_of(*kids):
    return json.dumps({"keys": [{"kty": "RSA", "kid": kid, "n": "AQAB", "e": "AQAB"} for kid in kids]}).encode()


class Issuer:
    """A server of key sets that does as it is told."""

    def __init__(self):
        self.body, self.status, self.fetches, self.headers, self.wait = set_of("a"), 200, 0, {}, 0.0

    async def answer(self, request):
        self.fetches += 1
        self.seen = dict(request.headers)
        await asyncio.sleep(self.wait)
        return web.Response(body=self.body, status=self.status, headers=self.headers)


@pytest.fixture
async def issuer():
    made = Issuer()
    app = web.Application()
    app.router.add_get("/jwks", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    yield made
    await runner.cleanup()


@pytest.fixture
async def jwks(clock):
    problems = []
    made = Jwks(clock, lambda url, why: problems.append(why))
    made.problems = problems
    yield made
    await made.close()


async def settled(jwks):
    await asyncio.gather(*(kept.task for kept in jwks._sets.values() if kept.task))


def kids(found):
    return [key["kid"] for key in found]


async def test_a_set_is_fetched_once_and_serves(issuer, jwks):
    issuer.body = set_of("a", "b")
    assert kids(await jwks.keys(issuer.url, "b")) == ["b"]
    assert kids(await jwks.keys(issuer.url, None)) == ["a", "b"]
    assert issuer.fetches == 1
    assert "cookie" not in {name.lower() for name in issuer.seen}


async def test_a_hundred_calls_at_once_make_one_fetch_and_a_cancelled_one_harms_no_other(issuer, jwks):
    issuer.wait = 0.05
    calls = [asyncio.create_task(jwks.keys(issuer.url, "a")) for _ in range(100)]
    await asyncio.sleep(0.01)
    for call in calls[:50]:
        call.cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in done[:50])
    assert all(kids(one) == ["a"] for one in done[50:])
    assert issuer.fetches == 1


async def test_ten_thousand_unknown_kids_make_one_fetch_in_30_s(issuer, jwks, clock):
    await jwks.keys(issuer.url, "a")
    clock.forward(31)
    for number in range(10_000):
        assert not await jwks.keys(issuer.url, f"x{number}")
    assert issuer.fetches == 2


async def test_a_key_published_later_is_found(issuer, jwks, clock):
    await jwks.keys(issuer.url, "a")
    issuer.body = set_of("a", "new")
    clock.forward(31)
    assert kids(await jwks.keys(issuer.url, "new")) == ["new"]


async def test_an_old_set_serves_while_it_is_fetched_again(issuer, jwks, clock):
    await jwks.keys(issuer.url, "a")
    issuer.body = set_of("b")
    clock.forward(301)
    assert kids(await jwks.keys(issuer.url, "a")) == ["a"]
    await settled(jwks)
    assert kids(await jwks.keys(issuer.url, "b")) == ["b"]


async def test_the_last_good_set_serves_for_10_minutes_after_the_loss_and_no_longer(issuer, jwks, clock):
    await jwks.keys(issuer.url, "a")
    issuer.status = 500
    clock.forward(301)
    await jwks.keys(issuer.url, "a")
    await settled(jwks)
    assert jwks.problems == ["answered 500"]
    clock.forward(599)
    assert kids(await jwks.keys(issuer.url, "a")) == ["a"]
    await settled(jwks)
    clock.forward(2)
    with pytest.raises(Refusal) as no:
        await jwks.keys(issuer.url, "a")
    assert (no.value.status, no.value.code) == (503, "state_unavailable")
    issuer.status = 200
    clock.forward(6)
    assert kids(await jwks.keys(issuer.url, "a")) == ["a"]


@pytest.mark.parametrize(
    ("body", "status", "headers", "why"),
    [
        (b"x" * 70_000, 200, {}, "larger"),
        (set_of(*map(str, range(33))), 200, {}, "33 keys"),
        (set_of(), 200, {}, "0 keys"),
        (b"<html>", 200, {}, "not JSON"),
        (b'{"keys":{}}', 200, {}, "not a JWKS"),
        (b"[]", 200, {}, "not a JWKS"),
        (b'{"keys":[1]}', 200, {}, "not a JWKS"),
        (b"", 302, {"location": "/jwks"}, "answered 302"),
        (b"", 500, {}, "answered 500"),
    ],
)
async def test_t21_a_bad_set_is_refused_and_a_good_one_before_it_stays(issuer, jwks, clock, body, status, headers, why):
    await jwks.keys(issuer.url, "a")
    issuer.body, issuer.status, issuer.headers = body, status, headers
    clock.forward(301)
    await jwks.keys(issuer.url, "a")
    await settled(jwks)
    assert why in jwks.problems[0]
    assert kids(await jwks.keys(issuer.url, "a")) == ["a"]
    assert issuer.fetches == 2


@pytest.mark.parametrize(
    "url", ["http://login.example.com/jwks", "file:///etc/passwd", "http://[bad", "https://", "http://127.0.0.1:1/jwks"]
)
async def test_without_any_set_the_caller_is_told_to_come_again(jwks, url):
    with pytest.raises(Refusal) as no:
        await jwks.keys(url, "a")
    assert (no.value.status, no.value.code, no.value.retry_after) == (503, "state_unavailable", 5.0)
    assert len(jwks.problems) == 1
    with pytest.raises(Refusal):
        await jwks.keys(url, "a")
    assert len(jwks.problems) == 1, "a failed fetch is not repeated at once"


async def test_closing_ends_a_fetch_under_way(issuer, jwks):
    issuer.wait = 5
    waiting = asyncio.create_task(jwks.keys(issuer.url, "a"))
    await asyncio.sleep(0.02)
    await jwks.close()
    with pytest.raises(Refusal):
        await waiting


@pytest.mark.parametrize(
    ("url", "is_good"),
    [
        ("https://login.example.com/jwks", True),
        ("http://localhost:1/jwks", True),
        ("http://[::1]:1/jwks", True),
        ("http://10.0.0.1/jwks", False),
        ("http://localhost.example.com/", False),
        ("ftp://127.0.0.1/", False),
    ],
)
def test_only_https_leaves_the_machine(url, is_good):
    assert is_fetchable(url) is is_good


def test_a_set_of_just_so_many_keys_is_taken():
    assert len(read_set(set_of(*map(str, range(MAX_KEYS))))) == MAX_KEYS
    with pytest.raises(JwksProblem):
        read_set(set_of(*map(str, range(MAX_KEYS + 1))))
