"""How long each phase may take, and what becomes of an answer that nobody waits for."""

import asyncio
import contextlib
import socket
import time

import pytest
from support.caller import Caller, Cut
from support.chat import asked, delta
from support.world import CHAT, World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHORT = "{connect: 300ms, first_byte: 400ms, idle: 400ms, total: 1500ms}"
PLACES = {
    "top": ("timeouts: " + SHORT, "one", ""),
    "provider": ("", "short", ""),
    "rule": (f"rules: [{{match: {{'header:x-case': short}}, timeouts: {SHORT}}}]", "one", "short"),
}


@pytest.mark.parametrize("place", PLACES)
async def test_each_phase_has_its_time_wherever_the_policy_says_so(tmp_path, place):
    said, provider, x_case = PLACES[place]
    with full_backlog() as port:
        policy = f"""
        providers:
          one: {{dialect: openai, url: A_URL}}
          short: {{dialect: openai, url: A_URL, timeouts: {SHORT}}}
          one-hole: {{dialect: openai, url: 'http://127.0.0.1:{port}'}}
          short-hole: {{dialect: openai, url: 'http://127.0.0.1:{port}', timeouts: {SHORT}}}
        retry: {{attempts: 1}}
        {said}
        """
        async with world(tmp_path, policy) as one:
            one.provider.script = silences
            phases = ("connect", "first_byte", "idle", "total")
            found = await asyncio.gather(*(silent(one, provider, phase, x_case) for phase in phases))
            assert dict(zip(phases, (code for code, _ in found), strict=True)) == {
                "connect": "upstream_connect_timeout", "first_byte": "upstream_first_byte_timeout",
                "idle": "upstream_idle_timeout", "total": "upstream_timeout",
            }  # fmt: skip
            for (_, took), (least, most) in zip(found, ((0.3, 10), (0.4, 10), (0.4, 10), (1.4, 12)), strict=True):
                assert least <= took < most, found


async def silences(seen, reply):
    """Falls silent before the head, in the middle, or never and never ends."""
    if seen.header("x-phase") == "first_byte":
        await seen.gone.wait()
        return
    await reply.start()
    await reply.event(delta("x"))
    while not seen.gone.is_set():
        if seen.header("x-phase") == "total":
            await reply.event(delta("y"))
        await asyncio.sleep(0.1)


async def silent(one: World, provider: str, phase: str, x_case: str) -> tuple[str | None, float]:
    """The code that ends the call, in its header or in its last event; and how long that took, in seconds."""
    began = time.monotonic()
    name = f"{provider}-hole" if phase == "connect" else provider
    headers = [("content-type", "application/json"), ("x-phase", phase), ("x-case", x_case)]
    async with Caller(one.sluice.port) as caller:
        await caller.send("POST", f"/{name}{CHAT}", headers, asked(stream=True))
        got = await caller.head()
        if got.code:
            return got.code, time.monotonic() - began
        try:
            said = await caller.rest()
        except Cut as cut:
            said = cut.body
    found = [code for code in ("upstream_idle_timeout", "upstream_timeout") if code.encode() in said]
    return found[0] if found else None, time.monotonic() - began


@contextlib.contextmanager
def full_backlog():
    """A port that answers no connection attempt: its queue is full, and nobody takes anything out of it."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield listener.getsockname()[1]


# --- on_client_gone ---


@pytest.mark.parametrize("choice", ["cancel", "finish"])
async def test_when_the_client_leaves_the_answer_is_cancelled_or_finished(tmp_path, choice):
    ended = asyncio.Event()
    left = asyncio.Event()

    async def script(seen, reply):
        await reply.start()
        await reply.event(delta("first"))
        await left.wait()
        try:
            await asyncio.wait_for(seen.gone.wait(), 1)
            return
        except TimeoutError:
            pass
        await reply.event(delta("last", "stop"))
        await reply.event({**delta(""), "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}})
        await reply.event("[DONE]")
        await reply.end()
        ended.set()

    async with world(tmp_path, f"providers: {{openai: {{url: A_URL}}}}\non_client_gone: {choice}") as one:
        one.provider.script = script
        async with Caller(one.sluice.port) as caller:
            lines = [("content-type", "application/json"), ("x-request-id", "left-early")]
            await caller.send("POST", f"/openai{CHAT}", lines, asked(stream=True))
            await caller.head()
            await caller.piece()
            caller.leave()
        left.set()
        if choice == "finish":
            await asyncio.wait_for(ended.wait(), 20)
        else:
            await asyncio.wait_for(one.provider.seen[-1].gone.wait(), 20)
        for _ in range(100):
            if rows := await one.sluice.rows():
                break
            await asyncio.sleep(0.02)
        row = rows[0]
        assert row["end"] == "client_gone"
        assert row["usage_source"] == ("provider" if choice == "finish" else "counted"), row
        if choice == "finish":
            assert (row["input_tokens"], row["output_tokens"]) == (3, 4)
