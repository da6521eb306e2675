"""The admin listener over real sockets: who is let in, and what is answered."""

import asyncio
import csv
import io
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from proxy.admin.app import Admin, Probes
from proxy.admin.door import AdminRunner
from proxy.admit.keyring import Kept, Keyring, NoSuchKey, revoked, rotation
from proxy.identify import keys
from proxy.policy.plan import ServerRules
from proxy.policy.plan_callers import CallerRules, KeyRecord
from proxy.record.redact import hidden_by
from proxy.refusal import Refusal

TOKEN = "admin-token-of-the-test"
NOW_NS = 1_790_000_000 * 10**9


ATTEMPT = {
    "id": "slu-1/1", "request_id": "theirs_.:-9", "attempt": 1, "kind": "first", "parent_id": None, "at": 1_790_000_000 * 10**9,
    "caller": "bot", "team": None, "tier": None, "provider": "openai", "model": "gpt-4o", "operation": "chat", "credential": None,
    "status": 200, "end": "done", "input_tokens": 1000, "cached_input_tokens": 0, "cache_write_tokens": 0, "output_tokens": 0,
    "reasoning_tokens": 0, "usage_detail": {"prompt_tokens": 1000}, "usage_source": "provider", "usage_note": "",
    "cost_nanousd": 2_500_000, "held_nanousd": 9_000_000, "streamed": False, "duration_ms": 1.5, "policy_generation": 1,
    "price_row": {"name": "gpt-4o", "provider": "openai", "source": "s", "date": "2026-01-01", "mark": "table",
                  "rates": {"input": 2_500_000_000}},
}  # fmt: skip


class Minted:
    """Keys in memory."""

    def __init__(self):
        self.ring = Keyring()

    def all(self):
        return list(self.ring)

    async def add(self, record):
        self.ring.learn([Kept(record, 1)])

    async def rotate(self, name, digest, overlap_ns, declared):
        fresh, *old = rotation(self.ring, name, digest, overlap_ns, NOW_NS, declared)
        self.ring.learn([fresh, *old])
        return fresh

    async def revoke(self, declared, *, name=None, id=None):
        found = self.ring.named(name, declared) if name else self.ring.with_id(id, declared)
        if not found:
            raise NoSuchKey
        dead = [revoked(kept, NOW_NS) for kept in found]
        self.ring.learn(dead)
        return dead


class Ledger:
    """Rows in memory."""

    def __init__(self):
        self.made, self.asked, self.keys = [], [], Minted()

    async def rows(self, limit, since_ns, caller):
        self.asked.append((limit, since_ns, caller))
        return self.made[:limit]

    async def usage(self, by, since_ns, until_ns):
        self.asked.append((by, since_ns, until_ns))
        return [{by: "bot", "cost_nanousd": 5}]

    async def dearest(self, limit, since_ns, until_ns):
        self.asked.append((limit, since_ns, until_ns))
        return [{"request_id": "=cmd", "at": 1_790_000_000 * 10**9, "caller": "bot", "cost_nanousd": 5}]

    async def failed(self, since_ns, until_ns):
        self.asked.append((since_ns, until_ns))
        return [{"provider": "openai", "model": None, "end": "crashed", "cost_nanousd": 7}]

    async def billed(self, provider, since_ns, until_ns):
        self.asked.append((provider, since_ns, until_ns))
        return [{"day": "2026-11-21", "provider": "openai", "model": "gpt-4o", "cost_nanousd": 7}]

    async def attempts(self, request_id):
        self.asked.append(request_id)
        return [ATTEMPT] if request_id == ATTEMPT["request_id"] else []


class World:
    """One admin listener, and a client of it."""

    def __init__(self):
        self.ledger, self.reasons = Ledger(), {"live": None, "ready": None, "startup": None}
        self.failures, self.declared = [], ()
        self.token, self.is_loopback, self.shown = None, True, lambda name: name
        self.exposition = lambda: [b"sluice_x 1\n", b"sluice_y 2\n"]

    async def start(self):
        rulebook = SimpleNamespace(
            server=ServerRules(admin_token=self.token), callers=CallerRules(self.declared, tiers=frozenset({"free"})), time_zone="UTC"
        )
        probes = Probes(*(lambda name=name: self.reasons[name] for name in ("live", "ready", "startup")))
        admin = Admin(
            lambda: rulebook,
            probes,
            lambda: self.exposition(),
            self.ledger,
            lambda n: bytes([len(self.ledger.keys.all())]) * n,
            lambda: NOW_NS,
            self.failures.append,
            is_loopback=self.is_loopback,
            shown=self.shown,
        )
        self.runner = AdminRunner(admin.app())
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.session, self.base = aiohttp.ClientSession(), f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        return self

    async def ask(self, method, path, **more):
        async with self.session.request(method, URL(self.base + path, encoded=True), **more) as answer:
            body = await answer.read()
            is_json = answer.content_type == "application/json"
            return SimpleNamespace(status=answer.status, headers=answer.headers, body=body, doc=await answer.json() if is_json else None)

    async def get(self, path, **headers):
        return await self.ask("GET", path, headers=headers)


@pytest.fixture
async def world():
    made = World()
    yield made
    await made.session.close()
    await made.runner.cleanup()


@pytest.mark.parametrize("probe", ["live", "ready", "startup"])
async def test_health_is_ok_or_says_why_not(world, probe):
    await world.start()
    good = await world.get(f"/healthz/{probe}")
    world.reasons[probe] = "draining"
    bad = await world.get(f"/healthz/{probe}")
    assert (good.status, good.body, bad.status, bad.body) == (200, b"ok\n", 503, b"draining\n")


async def test_metrics_and_the_front_page_need_no_token(world):
    world.token = TOKEN
    await world.start()
    metrics, front = await world.get("/metrics"), await world.get("/")
    assert (metrics.body, metrics.headers["content-type"]) == (b"sluice_x 1\nsluice_y 2\n", "text/plain; version=0.0.4; charset=utf-8")
    assert b"/admin/ledger" in front.body and front.headers["x-content-type-options"] == "nosniff"


async def test_other_work_has_its_turn_after_each_slice_of_the_metrics(world):
    made, seen = 0, set()

    def exposition():
        nonlocal made
        while made < 50:
            made += 1
            yield b"sluice_x 1\n"

    async def other_work():
        while made < 50:
            seen.add(made)
            await asyncio.sleep(0)

    world.exposition = exposition
    await world.start()
    work = asyncio.create_task(other_work())
    assert (await world.get("/metrics")).body == b"sluice_x 1\n" * 50
    await work
    assert seen == set(range(50))


@pytest.mark.parametrize("count", [0, 1, 500, 501, 1200])
async def test_the_ledger_is_given_as_rows_however_many(world, count):
    world.ledger.made = [{"id": f"u/{n}", "attempt": n, "at": 1_790_000_000 * 10**9} for n in range(count)]
    await world.start()
    answer = await world.get("/admin/ledger?limit=2000&since=1790000000&caller=bot")
    assert answer.doc == {"rows": [{"attempt": n, "at": "2026-09-21T14:13:20.000Z"} for n in range(count)]}
    assert world.ledger.asked == [(2000, 1_790_000_000 * 10**9, "bot")]
    assert answer.headers["cache-control"] == "no-store"


async def test_where_names_are_hidden_the_ledger_is_asked_for_the_hidden_one(world):
    world.shown = hidden_by(b"s" * 32)
    await world.start()
    await world.get("/admin/ledger?caller=bot")
    assert world.ledger.asked == [(100, None, world.shown("bot"))]


async def test_usage_is_given_as_rows(world):
    await world.start()
    assert (await world.get("/admin/usage?by=team")).doc == {"rows": [{"team": "bot", "cost_nanousd": 5}]}
    await world.get("/admin/usage?by=provider&since=1790000000&until=2026-11-21")
    assert world.ledger.asked == [("team", None, None), ("provider", 1_790_000_000 * 10**9, 1_795_219_200 * 10**9)]


async def test_the_dearest_calls_what_failures_cost_and_what_a_bill_should_say_are_asked_for(world):
    await world.start()
    dearest, failed = await world.get("/admin/usage/dearest?limit=3&since=1"), await world.get("/admin/usage/failed?until=2")
    billed = await world.get("/admin/usage/billed?provider=openai")
    assert dearest.doc["rows"][0]["at"] == "2026-09-21T14:13:20.000Z"
    assert (failed.doc["rows"][0]["end"], billed.doc["rows"][0]["day"]) == ("crashed", "2026-11-21")
    assert world.ledger.asked == [(3, 10**9, None), (None, 2 * 10**9), ("openai", None, None)]


@pytest.mark.parametrize("what", ["usage?by=model&", "usage/dearest?", "usage/failed?", "usage/billed?", "ledger?"])
async def test_every_list_comes_as_csv_too(world, what):
    world.ledger.made = [ATTEMPT] * 600
    await world.start()
    answer = await world.get(f"/admin/{what}format=csv" + ("&limit=1000" if what in ("ledger?", "usage/dearest?") else ""))
    assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["content-disposition"].startswith("attachment; filename=") and answer.headers["cache-control"] == "no-store"
    rows = list(csv.DictReader(io.StringIO(answer.body.decode(), newline=""), strict=True))
    assert len(rows) == (600 if what == "ledger?" else 1) and all(None not in row for row in rows)
    if what == "usage/dearest?":
        assert rows[0]["request_id"] == "'=cmd" and rows[0]["team"] == ""


async def test_why_a_request_cost_what_it_cost_is_told_with_its_evidence(world):
    await world.start()
    told = (await world.get("/admin/ledger/theirs_.:-9")).doc
    assert (told["request_id"], told["cost_nanousd"]) == ("theirs_.:-9", 2_500_000)
    assert told["calls"][0]["attempts"][0]["arithmetic"]["lines"][0]["nanousd"] == "2500000"


@pytest.mark.parametrize("id", ["nobody-asked-this", "a" * 128])
async def test_a_request_that_the_ledger_does_not_know_is_404_with_a_fix(world, id):
    await world.start()
    answer = await world.get(f"/admin/ledger/{id}")
    assert (answer.status, answer.doc["error"]["code"]) == (404, "unknown_request") and "x-sluice-request-id" in answer.doc["error"]["fix"]
    assert id not in answer.body.decode()


@pytest.mark.parametrize("id", ["a" * 129, "a%20b", "a%2Fb", "%27", "a/b", ""])
async def test_what_is_no_request_id_is_not_looked_up(world, id):
    await world.start()
    assert (await world.get(f"/admin/ledger/{id}")).status == 404
    assert world.ledger.asked == []


async def test_a_bad_question_is_answered_with_code_and_fix(world):
    await world.start()
    answer = await world.get("/admin/ledger?limit=many")
    assert answer.status == 400
    assert answer.doc["error"]["code"] == "invalid_request" and "100000" in answer.doc["error"]["fix"]


async def test_a_key_is_shown_once_and_only_its_digest_is_kept(world):
    await world.start()
    answer = await world.ask("POST", "/admin/keys", json={"name": "ci", "tier": "free", "expires": "2027-03-01"})
    key = answer.doc.pop("key")
    assert (answer.status, answer.headers["cache-control"]) == (201, "no-store")
    (kept,) = world.ledger.keys.all()
    assert answer.doc == {
        "id": keys.digest_of(key).hex()[:12], "name": "ci", "tier": "free", "team": None, "state": "active", "source": "state",
        "created": "2026-09-21T14:13:20.000Z", "expires": "2027-03-01T00:00:00.000Z", "revoked": None, "own_limits": [],
    }  # fmt: skip
    assert keys.is_well_formed(key) and kept.record.digest == keys.digest_of(key)
    assert key not in repr(kept)


async def test_keys_are_listed_rotated_and_revoked_and_those_of_the_policy_too(world):
    world.declared = (KeyRecord("old-hand", b"p" * 32, "free"),)
    await world.start()
    first = (await world.ask("POST", "/admin/keys", json={"name": "ci", "tier": "free"})).doc
    rotated = await world.ask("POST", "/admin/keys/ci/rotate", json={"overlap": "1h"})
    assert rotated.status == 201 and keys.is_well_formed(rotated.doc["key"]) and rotated.doc["key"] != first["key"]
    assert rotated.doc["old_until"] == "2026-09-21T15:13:20.000Z"
    listed = (await world.get("/admin/keys")).doc["keys"]
    assert [(key["name"], key["state"], key["source"]) for key in listed] == [
        ("ci", "rotated", "state"), ("ci", "active", "state"), ("old-hand", "active", "policy"),
    ]  # fmt: skip
    assert not any("key" in key or "digest" in key for key in listed)
    dead = await world.ask("DELETE", "/admin/keys/old-hand")
    assert [(key["name"], key["state"]) for key in dead.doc["revoked"]] == [("old-hand", "revoked")]
    assert (await world.ask("DELETE", f"/admin/keys/id/{first['id']}")).status == 200
    listed = (await world.get("/admin/keys")).doc["keys"]
    assert [key["state"] for key in listed] == ["revoked", "active", "revoked"]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/admin/keys/nobody/rotate"), ("DELETE", "/admin/keys/nobody"), ("DELETE", "/admin/keys/id/00112233")]
)
async def test_a_key_that_nobody_has_is_404_with_the_fix(world, method, path):
    await world.start()
    answer = await world.ask(method, path, json={})
    assert (answer.status, answer.doc["error"]["code"]) == (404, "unknown_key") and answer.doc["error"]["fix"]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"json": {"name": "a", "tier": "gold"}}, 400),
        ({"data": b'{"name":"a"}'}, 400),
        ({"data": {"name": "a"}}, 400),
        ({"json": {"name": "a" * 20_000}}, 413),
    ],
)
async def test_a_key_that_cannot_be_made_is_not_made(world, more, status):
    await world.start()
    answer = await world.ask("POST", "/admin/keys", **more)
    assert answer.status == status and answer.doc["error"]["fix"]
    assert world.ledger.keys.all() == []


@pytest.mark.parametrize("given", [None, "", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer é"])
@pytest.mark.parametrize(
    "path",
    [
        "/admin/ledger",
        "/admin/ledger/a",
        "/admin/usage",
        "/admin/usage/dearest",
        "/admin/keys",
        "/admin",
        "/admin/none",
        "//admin/ledger",
        "/%61dmin/ledger",
    ],
)
async def test_without_the_configured_token_nothing_of_the_admin_api_answers(world, given, path):
    world.token = TOKEN
    await world.start()
    answer = await world.get(path, **({} if given is None else {"authorization": given}))
    assert answer.status == 401 or (answer.status == 404 and path == "//admin/ledger")
    assert TOKEN not in answer.body.decode()
    assert world.ledger.asked == []


async def test_with_the_token_it_answers_under_any_name(world):
    world.token, world.is_loopback = TOKEN, False
    await world.start()
    answer = await world.get("/admin/ledger", authorization=f"bearer {TOKEN}", host="sluice.example.com")
    assert answer.status == 200
    assert (await world.get("/admin/ledger")).headers["www-authenticate"].startswith("Bearer")


async def test_without_a_token_a_listener_off_loopback_tells_nothing(world):
    world.is_loopback = False
    await world.start()
    answer = await world.get("/admin/ledger")
    assert (answer.status, answer.doc["error"]["code"]) == (403, "not_allowed")
    assert "server.admin_token" in answer.doc["error"]["fix"]


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example.com"}, {"host": ""}, {"host": "[x"}, {"host": "127.0.0.1.evil.example"}, {"origin": "http://evil.example"}],
)
async def test_a_web_page_that_rebinds_a_name_to_this_machine_is_refused(world, headers):
    await world.start()
    answer = await world.get("/admin/ledger", **headers)
    assert (answer.status, answer.doc["error"]["code"]) == (403, "wrong_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9090", "127.0.0.1:9090", "[::1]:9090"])
async def test_this_machine_by_its_own_names_is_let_in(world, host):
    await world.start()
    assert (await world.get("/admin/ledger", host=host)).status == 200


async def test_what_is_not_there_is_said_in_json(world):
    await world.start()
    nothing, wrong = await world.get("/nothing"), await world.ask("POST", "/metrics")
    assert (nothing.status, nothing.doc["error"]["code"]) == (404, "not_found")
    assert (wrong.status, wrong.doc["error"]["code"]) == (405, "method_not_allowed")
    assert "GET" in wrong.headers["allow"]


async def test_a_ledger_that_cannot_answer_says_so_and_tells_no_inner_text(world):
    await world.start()

    async def busy(*_):
        raise Refusal(503, "ledger_unavailable", "the ledger cannot be read now")

    async def broken(*_):
        raise OSError("/secret/path")

    world.ledger.rows, world.ledger.usage = busy, broken
    unavailable, failed = await world.get("/admin/ledger"), await world.get("/admin/usage")
    assert (unavailable.status, unavailable.doc["error"]["code"]) == (503, "ledger_unavailable")
    assert (failed.status, failed.doc["error"]["code"]) == (500, "internal")
    assert b"secret" not in failed.body
    assert [type(error) for error in world.failures] == [OSError]
