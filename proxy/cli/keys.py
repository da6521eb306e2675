"""`sluice keys new NAME`: mints a key into the running process, or into the state where none runs. Shows it once and keeps it nowhere."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from proxy.admin.asked import read_key_asked
from proxy.admin.say import AdminProblem
from proxy.admit import StateProblem, add_key_offline
from proxy.cli import admin
from proxy.cli.state import state_path
from proxy.cli.terminal import fail, hint
from proxy.identify.keys import KEY_BYTES, hash_line, mint
from proxy.policy.plan_callers import CallerRules, KeyRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="mint a key", description="Mints a Sluice key and prints it once, on stdout alone.")
    new.add_argument("name", metavar="NAME", help="the caller's name: limits are counted on it")
    new.add_argument("--tier", metavar="T", help="a tier of the policy")
    new.add_argument("--team", metavar="T", help="a team of the policy")
    new.add_argument("--print", action="store_true", dest="is_printed", help="touch nothing: print the line for callers.keys, and the key")
    admin.add_arguments(new)


def run(options: argparse.Namespace) -> int:
    asked = {name: value for name in ("name", "tier", "team") if (value := getattr(options, name)) is not None}
    key, digest = mint(os.urandom(KEY_BYTES))
    try:
        record = _record(asked, digest)
        if options.is_printed:
            print(hash_line(record.name, digest, record.tier, record.team))
            hint("put this line under callers.keys of the policy; the key follows, and is shown this once")
        else:
            key = _online(options, asked) or _offline(options, record, key)
    except AdminProblem as problem:
        return fail(f"{problem.message}; {problem.fix}")
    except (admin.AdminError, admin.NoProcess, StateProblem, ValueError) as problem:
        return fail(str(problem))
    print(key)
    return 0


def _record(asked: dict[str, str], digest: bytes) -> KeyRecord:
    """The name is held to the rule of the admin API; whether tier and team exist, only a process with a policy knows."""
    declared = CallerRules(tiers=frozenset({asked.get("tier", "")}), teams=frozenset({asked.get("team", "")}))
    return read_key_asked(json.dumps(asked).encode(), digest, declared, "UTC")


def _online(options: argparse.Namespace, asked: dict[str, str]) -> str | None:
    """The key that the running process minted; None where the state itself is meant."""
    if options.state and not options.admin:
        return None
    process = admin.read_admin(options.admin)
    try:
        key = process.post("/admin/keys", asked).get("key")
    except admin.NoProcess:
        if not process.is_local:
            raise
        return None
    if not isinstance(key, str):
        raise admin.AdminError(f"what answers on {process.url} is no Sluice admin API; see --admin")
    hint(f"minted into the process on {process.url}; it is valid now, and shown this once")
    return key


def _offline(options: argparse.Namespace, record: KeyRecord, key: str) -> str:
    path = state_path(admin.state_asked(options.state))
    if path is None:
        raise ValueError("memory: keeps no key; start `sluice serve` and name its listener with --admin, or use --print")
    _add(path, record)
    hint(f"no process asked; minted into the state {path}, valid once `sluice serve` uses it, and shown this once")
    if record.tier or record.team:
        hint("whether the policy declares this tier and team was not checked: it refuses the key with 403 if not")
    return key


def _add(path: Path, record: KeyRecord) -> None:
    try:
        add_key_offline(path, record)
    except StateProblem as problem:
        way = "; or name the admin listener of that process with --admin" if "locked" in str(problem) else ""
        raise StateProblem(f"{problem}{way}") from problem
