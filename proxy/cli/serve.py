"""`sluice serve`: reads the policy, starts the app, drains it on SIGTERM. One clear line and exit code 78 where it cannot start."""

from __future__ import annotations

import argparse
import asyncio
import errno
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING

from proxy import __version__

if TYPE_CHECKING:
    from proxy.app import Places
    from proxy.policy.plan import Rulebook
    from proxy.policy.watch import Loaded

CANNOT_START = 78  # EX_CONFIG of sysexits.h


def add_arguments(parser: argparse.ArgumentParser) -> None:
    env = os.environ.get
    parser.add_argument("--policy", metavar="FILE", default=env("SLUICE_POLICY"), help="policy file; none: a transparent pass-through")
    parser.add_argument("--listen", metavar="HOST:PORT", default=env("SLUICE_LISTEN"), help="what SDKs point at; also unix:/path")
    parser.add_argument("--admin", metavar="HOST:PORT", default=env("SLUICE_ADMIN"), help="health, metrics and the admin API")
    parser.add_argument("--state", metavar="URL", default=env("SLUICE_STATE"), help="sqlite:PATH (a directory), redis://… or memory:")


def run(options: argparse.Namespace) -> int:
    from proxy.admit import StateProblem
    from proxy.policy.problems import PolicyErrors

    try:
        return _run(options)
    except PolicyErrors as errors:
        print("\n".join(f"sluice: {problem}" for problem in errors.problems), file=sys.stderr)
    except StateProblem as problem:
        print(f"sluice: {problem}", file=sys.stderr)
    except OSError as problem:
        print(f"sluice: {_worded(problem)}", file=sys.stderr)
    except ValueError as problem:
        print(f"sluice: {problem}", file=sys.stderr)
    return CANNOT_START


def _run(options: argparse.Namespace) -> int:
    gc.disable()  # until `App` is built: what is made before lives as long as the process
    from proxy.policy.apart import reading_apart
    from proxy.policy.build import start_problem
    from proxy.policy.watch import load
    from proxy.trust import left_to_us

    policy = Path(options.policy) if options.policy else None
    read = reading_apart(policy)  # while what only this process needs is imported
    from proxy.admit.place import StateProblem

    with left_to_us():
        from proxy.app import Places
    from proxy.cli.state import state_place

    loaded = load(policy, environ=os.environ, generation=1, listen=options.listen, now_ns=time.time_ns(), read=read)
    rules = loaded.rulebook
    listen, admin = options.listen or rules.server.listen, options.admin or rules.server.admin
    if (problem := start_problem(rules, listen)) is not None:
        raise StateProblem(problem)
    gc.freeze()
    places = Places(policy, listen, admin, state_place(options.state or rules.state))
    _runner()(_serve(places, loaded))
    return 0


def _runner() -> Callable[[Coroutine[object, object, None]], None]:
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


async def _serve(places: Places, loaded: Loaded) -> None:
    from proxy.app import App
    from proxy.trust import authorities

    app = await App.open(places, loaded)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, app.stop)
    loop.add_signal_handler(signal.SIGHUP, app.reload)
    print(banner(places, app.rules), file=sys.stderr, flush=True)
    threading.Thread(target=authorities).start()  # before the first provider is reached over TLS; an end waits for it
    await app.serve()


def banner(places: Places, rules: Rulebook) -> str:
    """What is served, and one line to copy per SDK."""
    host, admin = (one if one.startswith("unix:") else f"http://{reachable(one)}" for one in (places.listen, places.admin))
    state = places.state or "in memory: nothing is kept"
    lines = [
        f"Sluice {__version__} on {host} · admin {admin} · policy {places.policy or 'none: pass-through'} · state {state}",
        f"serves {', '.join(rules.providers)}",
        "point an SDK at it:",
    ]
    if host.startswith("unix:"):  # no base URL names a socket: the SDK's HTTP client must
        return "\n".join(lines + [f"  {line.format(host.removeprefix('unix:'))}" for line in ON_A_SOCKET])
    return "\n".join(lines + [f"  {line.format(host)}" for name, line in SDKS.items() if name in rules.providers])


def reachable(listen: str) -> str:
    """The address that a client on this machine connects to: 0.0.0.0 and [::] are none."""
    host, _, port = listen.rpartition(":")
    return f"{ANYWHERE.get(host, host)}:{port}"


ANYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
ON_A_SOCKET = (
    'OpenAI(base_url="http://localhost/openai/v1", http_client=httpx.Client(transport=httpx.HTTPTransport(uds="{}")))',
    'Anthropic(base_url="http://localhost/anthropic", http_client=httpx.Client(transport=httpx.HTTPTransport(uds="{}")))',
)
SDKS = {
    "openai": "export OPENAI_BASE_URL={}/openai/v1              # openai",
    "anthropic": "export ANTHROPIC_BASE_URL={}/anthropic           # anthropic",
    "gemini": "export GOOGLE_GEMINI_BASE_URL={}/gemini          # google-genai",
    "cohere": "export CO_API_URL={}/cohere                      # cohere",
    "mistral": 'Mistral(server_url="{}/mistral")                # mistralai',
    "groq": "export GROQ_BASE_URL={}/groq                    # groq",
}


def _worded(problem: OSError) -> str:
    if problem.errno == errno.EADDRINUSE:
        return f"{problem.filename} is in use: stop what listens there, or choose another address with --listen or --admin"
    return f"{problem.filename or ''}: {problem.strerror or problem}".lstrip(": ")
