"""The shipped scripts on a real server as one more store, with time from a prelude of the test's: no event loop, no outbox, no modes.

store = ScriptedStore(server, clock)          # a namespace of its own; `clock.now_ns()` is what the script reads
run(store.enter("uid", claims))               # as ports.Store, each close sent at once
store.balance("tier free", "caller=bob", "2026-11-21")      # what the server holds: settled, held, told …
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import redis

from proxy.admit.fleet.ops import Batch, Entry, Leave, Op, Pulse, Settle, Take, Taken, Uncount, Void, Want, Watch
from proxy.admit.fleet.script import Remote, Script, Scripts
from proxy.admit.limits import worst
from proxy.admit.wording import refusal
from proxy.exchange import Row
from proxy.policy.plan import Claim
from proxy.ports import Clock, Intent
from proxy.standings import Standing

T = TypeVar("T")
HAND = "local function clock(prefix) return tonumber(redis.call('GET', prefix .. 'clock')) end"
SCRIPTS = Scripts.load(HAND)
_numbers = itertools.count()


def patched(operation: str, text: str, by: str) -> Scripts:
    """The scripts with a fault seeded in one of them: what a test that bites must catch."""
    script: Script = getattr(SCRIPTS, operation)
    assert script.text.count(text) == 1, "the mutant's place has moved: name it anew"
    changed = script.text.replace(text, by)
    return replace(SCRIPTS, **{operation: Script(script.name, changed, hashlib.sha1(changed.encode()).hexdigest())})


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """What the coroutine gives; it waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        found: T = end.value
        return found
    raise AssertionError("it waits")


class PlainLink:
    """`ops.Link` on a blocking client."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.calls: list[str] = []

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[bytes]) -> Any:
        self.calls.append(script.name)
        try:
            return self.client.execute_command("EVALSHA", script.sha1, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            return self.client.execute_command("EVAL", script.text, len(keys), *keys, *args)


class Process:
    """One sidecar: its scripts' face and the number of its last batch."""

    def __init__(
        self, link: PlainLink, space: str, clock: Clock, instance: str = "one", *, scripts: Scripts = SCRIPTS, **more: Any
    ) -> None:
        options: dict[str, Any] = {"time_zone": "UTC", "max_keys": 100, "recover_ms": 3000, **more}
        self.space, self.clock, self.name, self.seq = space, clock, instance, 0
        self.remote = Remote(link, instance=instance, scripts=scripts, **options)

    def take(self, *entries: Entry, hold: Want | None = None) -> Taken:
        return run(self.remote.take(self.space, Take(entries, hold, self.clock.now_ns())))

    def hold(self, id: str, claims: Sequence[Claim], nanousd: int, tokens: int = 0) -> Taken:
        return self.take(hold=Want(id, tuple(claims), tokens, nanousd))

    def send(self, *ops: Op, watch: Sequence[Watch] = (), asks_run: bool = False) -> Pulse:
        self.seq += 1
        return self.send_again(*ops, watch=watch, asks_run=asks_run)

    def send_again(self, *ops: Op, watch: Sequence[Watch] = (), asks_run: bool = False) -> Pulse:
        """Under the number of the batch before."""
        return run(self.remote.send(self.space, Batch(self.seq, ops, tuple(watch), self.clock.now_ns()), asks_run=asks_run))


class SetClock:
    """Tells the server what `clock` says, before each call."""

    def __init__(self, link: PlainLink, space: str, clock: Clock) -> None:
        self.link, self.key, self.clock = link, f"sluice:{{{space}}}:clock", clock

    def now_ns(self) -> int:
        self.link.client.set(self.key, self.clock.now_ns() // 1000)
        return self.clock.now_ns()

    def monotonic(self) -> float:
        return self.clock.monotonic()

    def monotonic_ns(self) -> int:
        return self.clock.monotonic_ns()


class ScriptedStore:
    """`ports.Store` on the scripts alone, each close in a batch of its own."""

    def __init__(self, client: redis.Redis, clock: Clock, *, scripts: Scripts = SCRIPTS, **more: Any) -> None:
        self.link = PlainLink(client)
        self.space = f"test-{next(_numbers)}"
        self.prefix = f"sluice:{{{self.space}}}:"
        self.clock = SetClock(self.link, self.space, clock)
        self.process = self.another("one", scripts=scripts, **more)

    def another(self, instance: str, **more: Any) -> Process:
        return Process(self.link, self.space, self.clock, instance, **more)

    async def enter(self, call_uid: str, claims: Sequence[Claim]) -> tuple[Standing, ...]:
        taken = self.process.take(Entry(call_uid, tuple(claims)))
        return self._answer(taken, None)

    async def hold(self, intent: Intent) -> tuple[Standing, ...]:
        taken = self.process.hold(intent.id, intent.claims, intent.nanousd, intent.tokens)
        return self._answer(taken, intent)

    @staticmethod
    def _answer(taken: Taken, intent: Intent | None) -> tuple[Standing, ...]:
        if no := worst(taken.denied):
            raise refusal(no, intent)
        return taken.standings

    def settle(self, id: str, tokens: int, nanousd: int, row: Row) -> None:
        self.process.send(Settle(id, tokens, nanousd))

    def void(self, id: str, row: Row | None) -> None:
        self.process.send(Void(id))

    def leave(self, call_uid: str) -> None:
        self.process.send(Leave(call_uid))

    def uncount(self, call_uid: str) -> None:
        self.process.send(Uncount(call_uid))

    # -- looking inside -----------------------------------------------------------------------------------------------------

    def balance(self, limit: str, account: str, period: str) -> Mapping[str, int]:
        return _numbers_of(self.link.client.hgetall(f"{self.prefix}b:{period}|{limit}|{account}"))

    def slots(self, limit: str, account: str) -> int:
        return int(self.link.client.hget(f"{self.prefix}a:{limit}|{account}", "n") or 0)

    def key_names(self) -> set[str]:
        return {key.decode().removeprefix(self.prefix) for key in self.link.client.scan_iter(f"{self.prefix}*", count=1000)}


def _numbers_of(fields: Mapping[bytes, bytes]) -> Mapping[str, int]:
    return {name.decode(): int(number) for name, number in fields.items()}
