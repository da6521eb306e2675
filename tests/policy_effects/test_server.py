"""Every key of `server:`, `state:` and who is asked without a prefix: what listens where, for whom, and how much it takes."""

import asyncio
import gzip
import json
import time

import aiohttp
import pytest
import pytest_asyncio
from support.caller import Caller, Cut, ask
from support.chat import asked, delta, stream_end
from support.echo import echo
from support.ports import free_port
from support.provider import Provider
from support.sluice import Sluice
from support.world import CHAT, World, spelt, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = "the-admin-token-of-this-test"
JSON = [("content-type", "application/json")]


class AsItSays(Sluice):
    """Listens where its policy says, without a word on the command line."""

    def __init__(self, folder, policy, env=None):
        super().__init__(folder, policy, env)
        self.policy.write_text(self.policy.read_text().replace("PORT_1", str(self.port)).replace("PORT_2", str(self.admin_port)))

    def command(self) -> list[str]:
        command = super().command()
        return command[: command.index("--listen")]


class OnASocket(AsItSays):
    async def _is_ready(self) -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(self.admin + "/healthz/ready") as reply:
                return reply.status == 200
        except aiohttp.ClientError:
            return False


POLICY = """
server:
  listen: 127.0.0.1:PORT_1
  admin: 127.0.0.1:PORT_2
  admin_token: env:ADMIN_TOKEN
  hosts: [127.0.0.1, sluice.example.com]
  cors: [https://console.example.com]
  max_body: 2KB
  max_upload: 5KB
state: sqlite:STATE
default_provider: groq
providers: {openai: {url: A_URL}, groq: {url: B_URL}, anthropic: {url: A_URL}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    async with Provider(echo) as one, Provider(echo) as two:
        policy = spelt(POLICY, [one.url, two.url]).replace("STATE", str(folder / "kept"))
        sluice = AsItSays(folder, policy, {"ADMIN_TOKEN": TOKEN})
        try:
            await sluice.start()
            yield World(sluice, [one, two])
        finally:
            await sluice.stop()


@pytest.fixture(autouse=True)
def _quiet(request):
    if "here" in request.fixturenames:
        request.getfixturevalue("here").forget()


async def test_it_listens_and_keeps_its_state_where_the_policy_says(here):
    assert (await here.chat()).status == 200  # AsItSays has no other way to be found
    assert any((here.sluice.folder / "kept").iterdir())


async def admin(here, path: str, *headers: tuple[str, str]) -> int:
    return (await ask(here.sluice.admin_port, "GET", path, headers)).status


async def test_the_admin_api_wants_its_token_and_health_does_not(here):
    assert await admin(here, "/admin/ledger", ("authorization", f"Bearer {TOKEN}")) == 200
    assert await admin(here, "/admin/ledger") == 401
    assert await admin(here, "/admin/usage?by=caller", ("authorization", "Bearer wrong")) == 401
    assert await admin(here, "/healthz/live") == await admin(here, "/metrics") == 200


async def test_only_the_named_hosts_are_answered(here):
    for host, status in (
        ("sluice.example.com", 200),
        (f"127.0.0.1:{here.sluice.port}", 200),
        ("evil.example.com", 421),
        ("localhost", 421),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", here.sluice.port)
        body = asked()
        writer.write(
            f"POST /openai{CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        said = await reader.read()
        writer.close()
        assert said.startswith(f"HTTP/1.1 {status} ".encode()), (host, said[:200])
        assert (b"wrong_host" in said) is (status == 421)


async def test_on_loopback_only_its_own_names_are_answered_unless_the_policy_says_off(tmp_path):
    policy = "providers: {openai: {url: A_URL}}\nserver: {HOSTS}"
    for hosts, status in (("", 421), ("hosts: off", 200)):
        async with world(tmp_path, policy.replace("HOSTS", hosts)) as one, Caller(one.sluice.port) as caller:
            await caller.raw(b"GET /openai/v1/models HTTP/1.1\r\nHost: rebound.example.com\r\n\r\n")
            assert (await caller.answer()).status == status


async def test_pages_of_the_named_origins_may_call_and_no_others(here):
    ours, foreign = ("Origin", "https://console.example.com"), ("Origin", "https://evil.example.com")
    got = await here.chat(headers=[ours])
    assert got.header("access-control-allow-origin") == "https://console.example.com" and "Origin" in got.header("vary")
    assert (await here.chat(headers=[foreign])).header("access-control-allow-origin") is None
    wish = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization,content-type")]
    here.forget()
    preflight = await here.ask("OPTIONS", f"/openai{CHAT}", headers=[ours, *wish])
    assert preflight.status == 204 and "POST" in preflight.header("access-control-allow-methods")
    assert preflight.header("access-control-allow-headers") == "authorization,content-type" and not here.provider.seen
    other = await here.ask("OPTIONS", f"/openai{CHAT}", headers=[foreign, *wish])
    assert other.header("access-control-allow-origin") is None


async def test_what_is_held_is_bounded_after_decompression_too(here):
    assert (await here.chat(text="x" * 1500)).status == 200
    got = await here.chat(text="x" * 2500)
    assert (got.status, got.code) == (413, "too_large") and "2000" in got.body.decode().replace(",", "").replace(" ", "")
    bomb = gzip.compress(asked("x" * 100_000))
    assert len(bomb) < 1000
    got = await here.ask("POST", f"/openai{CHAT}", bomb, headers=[("content-encoding", "gzip")])
    assert (got.status, got.code) == (413, "too_large")


async def test_what_streams_through_is_bounded_by_max_upload_alone(here):
    form = [("Content-Type", "multipart/form-data; boundary=b")]

    async def upload(size: int):
        return await ask(here.sluice.port, "POST", "/openai/v1/files", form, b"x" * size)

    assert (await upload(4900)).status == 200 and len(here.last.body) == 4900
    got = await upload(5100)
    assert (got.status, got.code) == (413, "too_large")
    async with Caller(here.sluice.port) as caller:  # without a length it is found out on the way
        head = b"POST /openai/v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        await caller.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n%b\r\n" % (b"x" * 1000) * 6 + b"0\r\n\r\n")
        assert (await caller.answer()).code == "too_large"


async def test_a_request_without_a_prefix_goes_to_the_default_provider_or_where_its_shape_says(here):
    await here.ask("POST", CHAT, asked())
    assert here.providers[1].seen and not here.provider.seen
    assert here.providers[1].seen[-1].target == "/openai/v1/chat/completions"  # groq's own root
    body = b'{"model":"claude-sonnet-4-5","max_tokens":5,"messages":[]}'
    assert (await here.ask("POST", "/v1/messages", body)).header("x-sluice-provider") == "anthropic"


async def test_without_a_token_the_admin_api_answers_this_machine_and_under_its_own_name_alone(tmp_path):
    async with world(tmp_path, "providers: {openai: {url: A_URL}}") as one:
        port = one.sluice.admin_port
        assert (await ask(port, "GET", "/admin/ledger")).status == 200
        assert (await ask(port, "GET", "/admin/ledger", [("Origin", "https://evil.example.com")])).status == 403


async def test_a_unix_socket_is_a_listener_like_any_other(tmp_path):
    path = tmp_path / "s.sock"
    policy = f"""
    server: {{listen: 'unix:{path}', admin: '127.0.0.1:PORT_2'}}
    state: 'memory:'
    providers: {{openai: {{url: A_URL}}}}
    limits: [{{name: local, match: {{ip: unix}}, requests: 1/min}}]
    """
    async with Provider(echo) as provider:
        sluice = OnASocket(tmp_path, spelt(policy, [provider.url]))
        try:
            await sluice.start()
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
                statuses = []
                for _ in range(2):
                    async with session.post(f"http://sluice/openai{CHAT}", data=asked(), headers=dict(JSON)) as reply:
                        statuses.append((reply.status, reply.headers.get("x-sluice-limit")))
            assert statuses == [(200, "limit local"), (429, "limit local")]
        finally:
            assert await sluice.stop() == 0
        assert not path.exists()
        await sluice.start()  # `memory:` keeps nothing
        try:
            assert await sluice.rows() == []
        finally:
            await sluice.stop()


async def test_a_state_of_the_policy_survives_a_restart(tmp_path):
    policy = """
    server: {listen: '127.0.0.1:PORT_1', admin: '127.0.0.1:PORT_2'}
    state: env:STATE_URL
    providers: {openai: {url: A_URL}}
    limits: [{name: once, requests: 1/day, per: total}]
    """
    async with Provider(echo) as provider:
        sluice = AsItSays(tmp_path, spelt(policy, [provider.url]), {"STATE_URL": f"sqlite:{tmp_path / 'there'}"})
        one = World(sluice, [provider])
        try:
            await sluice.start()
            assert [(await one.chat()).status for _ in range(2)] == [200, 429]
            await sluice.stop()
            await sluice.start()
            assert (await one.chat()).status == 429 and (await sluice.rows())[0]["kind"] == "first"
        finally:
            await sluice.stop()


@pytest.mark.parametrize(("drain", "finishes"), [("400ms", False), ("20s", True)])
async def test_streams_may_finish_within_drain_and_are_told_when_it_is_over(tmp_path, drain, finishes):
    stopped = asyncio.Event()

    async def script(seen, reply):
        await reply.start()
        await reply.event(delta("first"))
        await stopped.wait()
        if finishes:
            await asyncio.sleep(0.6)
            await stream_end(reply)
        else:
            await seen.gone.wait()

    async with world(tmp_path, f"server: {{drain: {drain}}}\nproviders: {{openai: {{url: A_URL}}}}") as one:
        one.provider.script = script
        async with Caller(one.sluice.port) as caller:
            await caller.send("POST", f"/openai{CHAT}", JSON, asked(stream=True))
            await caller.head()
            await caller.piece()
            began = time.monotonic()
            ending = asyncio.ensure_future(one.sluice.stop())
            stopped.set()
            try:
                said, was_cut = await caller.rest(), False
            except Cut as cut:
                said, was_cut = cut.body, True
            assert await ending == 0
            assert time.monotonic() - began < 20
        assert was_cut is not finishes
        assert (b"[DONE]" in said) is finishes and (b"stopped_drain" in said) is not finishes


async def test_a_version_that_is_not_ours_and_a_port_in_use_are_one_clear_line(tmp_path):
    busy = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    taken = busy.sockets[0].getsockname()[1]
    for policy, said in (
        ("version: 2", "version"),
        (f"server: {{listen: '127.0.0.1:{taken}', admin: '127.0.0.1:{free_port()}'}}\nstate: 'memory:'", f"127.0.0.1:{taken} is in use"),
        (f"server: {{listen: '127.0.0.1:{free_port()}', admin: '127.0.0.1:{taken}'}}\nstate: 'memory:'", f"127.0.0.1:{taken} is in use"),
    ):
        sluice = AsItSays(tmp_path, policy)
        process = await asyncio.create_subprocess_exec(*sluice.command(), stdout=-1, stderr=-2, env=sluice._env)
        out, _ = await process.communicate()
        assert process.returncode == 78 and len(out.splitlines()) == 1 and said in out.decode(), out
    busy.close()


async def test_who_starts_where_strangers_could_spend_a_provider_key_is_refused(tmp_path):
    policy = f"server: {{listen: '0.0.0.0:{free_port()}', admin: '127.0.0.1:{free_port()}'}}\nproviders: {{openai: {{key: env:K}}}}"
    sluice = AsItSays(tmp_path, policy, {"K": "sk-x"})
    process = await asyncio.create_subprocess_exec(*sluice.command(), stdout=-1, stderr=-2, env=sluice._env)
    out, _ = await process.communicate()
    assert process.returncode == 78 and b"anonymous" in out


async def test_the_body_of_a_refusal_is_json_of_the_asked_dialect(here):
    got = await here.ask("POST", "/anthropic/v1/messages", b"{")
    assert json.loads(got.body)["type"] == "error" and got.code == "malformed_json"
