"""The way to a shared state in each topology: one server, the master that Sentinel names, or a Cluster. Never sends a command again
that may have run: who calls resends what is idempotent, and voids the rest."""

from __future__ import annotations

import asyncio
import math
import ssl
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from redis import exceptions as theirs
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.crc import key_slot

from proxy.admit.fleet.address import Address, Node
from proxy.admit.fleet.ops import Down, Script
from proxy.admit.fleet.wire import Wire, down

MOST_TIMEOUT_S = 0.2
MOST_REDIRECTS = 3
LOOK_AGAIN_S = 0.5  # between two looks at the map of a Cluster
ELSEWHERE = ("readonly", "loading", "masterdown")  # said by a node that is not, or no longer, the one to speak to
Arg = str | bytes | int

pack: Callable[..., list[bytes]] = HiredisRespSerializer().pack
ASKING = pack("ASKING")[0]


def open_link(address: Address, timeout_s: float = 0.15) -> Link:
    """Connects when it is first used. `timeout_s`: of a whole call, connecting included; at most 0.2.

    Raises ValueError for a certificate or key that cannot be read.
    """
    return (ClusterLink if address.topology == "cluster" else Link)(address, min(timeout_s, MOST_TIMEOUT_S))


class Link:
    """To one server, or to the master that Sentinel names. Implements `ops.Link`."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._tls = _tls(address) if address.is_tls else None
        self._sentinel = _sentinel(address, timeout_s) if address.topology == "sentinel" else None
        self._wires: dict[Node, Wire] = {}

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """The script's reply. The keys are of one slot. It ran once where this returns, and at most once where it raises Down."""
        until = self._until()
        rest = (len(keys), *keys, *args)
        try:
            return await self._ask(("EVALSHA", script.sha1, *rest), keys[0], until)
        except theirs.NoScriptError:
            return await self._ask_named(("EVAL", script.text, *rest), keys[0], until)

    async def ask(self, *command: Arg, key: str | None = None) -> Any:
        """The reply to one command, by the node of `key` (None: any). Raises Down."""
        return await self._ask_named(command, key, self._until())

    async def ask_each(self, *command: Arg) -> list[Any]:
        """The replies of all who take writes: the master, or those of a Cluster. Raises Down."""
        return [await self.ask(*command)]

    async def close(self) -> None:
        for wire in list(self._wires.values()):
            await wire.close()
        if self._sentinel is not None:
            await self._sentinel.aclose()

    async def _ask_named(self, command: Sequence[Arg], key: str | None, until: float) -> Any:
        try:
            return await self._ask(command, key, until)
        except theirs.NoScriptError as error:
            raise down(error) from None

    async def _ask(self, command: Sequence[Arg], key: str | None, until: float) -> Any:
        """Raises Down; NoScriptError, which says that nothing ran."""
        wire = self._wire(self._address.nodes[0])
        try:
            return await wire.ask(pack(*command), until)
        except theirs.NoScriptError:
            raise
        except theirs.ResponseError as error:
            problem = down(error)
            if problem.kind in ELSEWHERE:
                wire.drop(problem)
            raise problem from None

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout_s

    def _wire(self, node: Node) -> Wire:
        wire = self._wires.get(node)
        if wire is None:
            if self._sentinel is None:
                wire = Wire(partial(self._open, node), self._timeout_s)
            else:
                wire = Wire(self._open_master, self._timeout_s * (1 + len(self._address.nodes)))  # each sentinel may be dead
            self._wires[node] = wire
        return wire

    async def _open_master(self) -> Connection:
        assert self._sentinel is not None
        return await self._open(await self._sentinel.discover_master(self._address.service))

    async def _open(self, node: Node) -> Connection:
        """A connection that has entered. It has no deadlines of its own: the wire's are of whole commands, and cheaper."""
        address = self._address
        entering = {"db": address.db, "username": address.user, "password": address.password, "protocol": 2, "driver_info": None}
        options: dict[str, Any] = {"host": node[0], "port": node[1], **entering, **NO_REPLAY}
        options |= {"socket_timeout": None, "socket_connect_timeout": self._timeout_s}
        connection = Connection(**options) if self._tls is None else SSLConnection(**options)
        if isinstance(connection, SSLConnection):
            connection.ssl_context.context = self._tls  # read once; the library would add `ca=` to the authorities of this machine
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # the library gives it no types
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection


class ClusterLink(Link):
    """To a Cluster: each call goes to the master of its keys' slot, and follows at most three redirections."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        super().__init__(address, timeout_s)
        self._starts: list[int] = []  # the map: the first slot of each range,
        self._holders: list[Node] = []  # and the master that holds it
        self._moved: dict[int, Node] = {}  # told since by redirections
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = -math.inf
        self._turn = 0  # another node is asked first each time: one that is cut off tells an old map

    async def ask_each(self, *command: Arg) -> list[Any]:
        until = self._until()
        await self._know(until)
        return [await self._follow(node, command, until) for node in dict.fromkeys(self._holders)]

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await super().close()

    async def _ask(self, command: Sequence[Arg], key: str | None, until: float) -> Any:
        if not self._starts:
            await self._know(until)
        slot = 0 if key is None else key_slot(key.encode())
        node = self._moved.get(slot) or self._holders[bisect_right(self._starts, slot) - 1]
        return await self._follow(node, command, until)

    async def _follow(self, node: Node, command: Sequence[Arg], until: float) -> Any:
        """Only what was redirected, and so has not run, is sent on."""
        packed, is_asking = pack(*command), False
        for _ in range(1 + MOST_REDIRECTS):
            wire = self._wire(node)
            try:
                return await wire.ask([ASKING, *packed] if is_asking else packed, until, after_asking=is_asking)
            except theirs.NoScriptError:
                raise
            except theirs.AskError as elsewhere:  # MOVED is one of them
                is_asking = not isinstance(elsewhere, theirs.MovedError)
                node = (elsewhere.host or node[0], elsewhere.port)
                if not is_asking:
                    self._moved[elsewhere.slot_id] = node
                    self._look_soon()
            except (theirs.ResponseError, Down) as error:
                problem = error if isinstance(error, Down) else down(error)
                if problem.kind in ELSEWHERE:
                    wire.drop(problem)
                self._look_soon()
                raise problem from None
        raise Down("clusterdown", f"more than {MOST_REDIRECTS} redirections")

    # -- who holds which slot ------------------------------------------------------------------------------------------

    async def _know(self, until: float) -> None:
        """Raises Down where no node tells the map in time."""
        self._look_soon()
        if self._looking is not None and not self._starts:
            await asyncio.wait((self._looking,), timeout=until - asyncio.get_running_loop().time())
        if not self._starts:
            raise Down("refused", "no node of the Cluster tells its map")

    def _look_soon(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._looking is None and (now - self._looked_at >= LOOK_AGAIN_S or not self._starts):
            self._looked_at = now
            self._looking = asyncio.get_running_loop().create_task(self._look(), name="shared state: map")

    async def _look(self) -> None:
        """Asks the nodes one after the other, until one tells who holds which slot."""
        try:
            nodes = list(dict.fromkeys((*self._holders, *self._address.nodes)))
            self._turn += 1
            for index in range(len(nodes)):
                node = nodes[(self._turn + index) % len(nodes)]
                try:
                    said = await self._wire(node).ask(pack("CLUSTER SLOTS"), self._until())
                except (theirs.RedisError, Down):
                    continue
                if said:
                    self._learn(node, said)
                    return
        finally:
            self._looking = None

    def _learn(self, asked: Node, said: list[list[Any]]) -> None:
        """`said`: first and last slot, then the master and its replicas (address, port, …). A node may not know its own address."""
        ranges = sorted((int(first), ((master[0] or b"").decode() or asked[0], int(master[1]))) for first, _, master, *_ in said)
        self._starts, self._holders, self._moved = [first for first, _ in ranges], [node for _, node in ranges], {}
        for node in [node for node, wire in self._wires.items() if wire.is_idle and node not in self._holders]:
            self._wires.pop(node).drop(Down("refused", "no longer a master"))


NO_REPLAY: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "health_check_interval": 0}


def _tls(address: Address) -> ssl.SSLContext:
    """Of `ca=` alone, where it stands; else of the authorities of this machine."""
    try:
        context = ssl.create_default_context(cafile=address.ca)
    except (OSError, ValueError):
        raise ValueError(f"`ca=` of the shared state is no readable certificate: {address.ca}") from None
    try:
        if address.cert is not None:
            context.load_cert_chain(address.cert, address.key)
    except (OSError, ValueError):
        raise ValueError(f"`cert=` and `key=` of the shared state are no readable pair: {address.cert}, {address.key}") from None
    return context


def _sentinel(address: Address, timeout_s: float) -> Sentinel:
    options: dict[str, Any] = {"username": address.sentinel_user, "password": address.sentinel_password, "protocol": 2, "driver_info": None}
    if address.is_tls:
        options |= {"ssl": True, "ssl_ca_certs": address.ca, "ssl_certfile": address.cert, "ssl_keyfile": address.key}
    options |= {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, **NO_REPLAY}
    return Sentinel(address.nodes, sentinel_kwargs=options)  # type: ignore[no-untyped-call]  # the library gives it no types
