"""`sluice keys new|list|rotate|revoke`: in the running process, or in the state where none runs. Shows a new key once, keeps it nowhere."""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Callable
from typing import Any

from proxy.admin.keys_asked import read_key_asked
from proxy.admin.say import AdminProblem
from proxy.admit import StateProblem
from proxy.cli import admin, keys_offline
from proxy.cli.terminal import fail, hint, table
from proxy.identify.keys import KEY_BYTES, hash_line, mint
from proxy.policy.plan_callers import CallerRules, KeyRecord

Doc = dict[str, Any]
NUMBERS = {"requests": "R/min", "tokens": "T/min", "spend": "$/day"}
ALLOWED = {"models": "--allow-model", "providers": "--allow-provider", "regions": "--allow-region"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="mint a key", description="Mints a Sluice key and prints it once, on stdout alone.")
    new.add_argument("name", metavar="NAME", help="the caller's name: limits are counted on it")
    new.add_argument("--tier", metavar="T", help="a tier of the policy")
    new.add_argument("--team", metavar="T", help="a team of the policy")
    new.add_argument("--expires", metavar="YYYY-MM-DD", help="dead from the first instant of that day, in the policy's time zone")
    for name, unit in NUMBERS.items():
        new.add_argument(
            f"--{name}", metavar=unit, action="append", help=f"its own {name}, in place of its tier's, or off; may be repeated"
        )
    new.add_argument("--concurrency", metavar="N", type=_count, help="its own calls at the same time, in place of its tier's")
    for field, flag in ALLOWED.items():
        new.add_argument(flag, metavar="GLOB", action="append", dest=f"allow_{field}", help=f"the only {field} it may use; repeatable")
    new.add_argument("--print", action="store_true", dest="is_printed", help="touch nothing: print the line for callers.keys, and the key")
    listed = actions.add_parser("list", help="who has a key", description="Lists the keys of the state, and those of the running policy.")
    listed.add_argument("--json", action="store_true", dest="is_json", help="as JSON")
    rotate = actions.add_parser(
        "rotate", help="a new key for a name", description="Mints a new key like the newest; the old ones end soon."
    )
    rotate.add_argument("name", metavar="NAME", help="whose key")
    rotate.add_argument("--overlap", metavar="TIME", default="24h", help="how long the old ones stay valid (default: 24h; 0s: not at all)")
    revoke = actions.add_parser("revoke", help="end keys for good", description="Ends all keys of a name, or one by its id, for good.")
    revoke.add_argument("name", metavar="NAME", nargs="?", help="whose keys")
    revoke.add_argument("--id", metavar="HEX", help="one key, by the id that `keys list` shows")
    for action in (new, listed, rotate, revoke):
        admin.add_arguments(action)
        action.add_argument("--namespace", metavar="NAME", default="default", help="of a shared state, as in the policy (default: default)")


def _count(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() else text


def run(options: argparse.Namespace) -> int:
    try:
        if options.action == "revoke" and options.name and options.id:
            raise ValueError("give a NAME, which ends all its keys, or the --id of one key, not both")
        if options.action == "new" and options.is_printed:
            return _print(options)
        doc = _online(options)
        told = ACTIONS[options.action](options) if doc is None else doc
    except AdminProblem as problem:
        return fail(f"{problem.message}; {problem.fix}")
    except (admin.AdminError, admin.NoProcess, StateProblem, ValueError) as problem:
        return fail(str(problem))
    TELL[options.action](options, told)
    return 0


def _print(options: argparse.Namespace) -> int:
    if {"overrides", "allow", "expires"} & asked_of(options).keys():
        return fail("--print takes a name, a tier and a team; add overrides, allow and expires to its line by hand")
    key, digest = mint(os.urandom(KEY_BYTES))
    record = record_of(options, digest)
    print(hash_line(record.name, digest, record.tier, record.team))
    hint("put this line under callers.keys of the policy; the key follows, and is shown this once")
    print(key)
    return 0


def asked_of(options: argparse.Namespace) -> Doc:
    """The body of POST /admin/keys."""
    asked: Doc = {name: value for name in ("name", "tier", "team", "expires") if (value := getattr(options, name)) is not None}
    numbers = {name: value[0] if len(value) == 1 else value for name in NUMBERS if (value := getattr(options, name)) is not None}
    overrides = numbers if options.concurrency is None else numbers | {"concurrency": options.concurrency}
    allow = {field: value for field in ALLOWED if (value := getattr(options, f"allow_{field}")) is not None}
    return asked | ({"overrides": overrides} if overrides else {}) | ({"allow": allow} if allow else {})


def record_of(options: argparse.Namespace, digest: bytes) -> KeyRecord:
    """The name is held to the rule of the admin API; whether tier and team exist, only a process with a policy knows."""
    asked = asked_of(options)
    declared = CallerRules(tiers=frozenset({asked.get("tier", "")}), teams=frozenset({asked.get("team", "")}))
    return read_key_asked(json.dumps(asked).encode(), digest, declared, "UTC", time.time_ns())


def _online(options: argparse.Namespace) -> Doc | None:
    """What the running process said; None where the state itself is meant."""
    if options.state and not options.admin:
        return None
    process = admin.read_admin(options.admin)
    try:
        doc = _ask(process, options)
    except admin.NoProcess:
        if not process.is_local:
            raise
        return None
    if not {"key", "keys", "revoked"} & doc.keys():
        raise admin.AdminError(f"what answers on {process.url} is no Sluice admin API; see --admin")
    if "key" in doc:
        hint(f"minted into the process on {process.url}; it is valid now, and shown this once")
    return doc


def _ask(process: admin.Admin, options: argparse.Namespace) -> Doc:
    match options.action:
        case "new":
            return process.post("/admin/keys", asked_of(options))
        case "list":
            return process.get("/admin/keys")
        case "rotate":
            return process.post(f"/admin/keys/{_segment(options.name)}/rotate", {"overlap": options.overlap})
        case _:
            one = f"id/{_segment(options.id)}" if options.id else _segment(options.name)
            return process.delete(f"/admin/keys/{one}")


def _segment(name: str | None) -> str:
    if not name or not re.fullmatch(r"[A-Za-z0-9._@-]+", name):
        raise ValueError("name the key, as `sluice keys list` shows it, or give its --id")
    return name


def _tell_key(_: argparse.Namespace, doc: Doc) -> None:
    if doc.get("old_until"):
        hint(f"the old ones end {doc['old_until']}")
    print(doc["key"])


def _tell_list(options: argparse.Namespace, doc: Doc) -> None:
    if options.is_json:
        print(json.dumps({"keys": doc["keys"]}, indent=2))
    elif not doc["keys"]:
        print("there are no keys yet; `sluice keys new NAME` mints one")
    else:
        columns = ("name", "id", "state", "tier", "team", "created", "expires", "source")
        table(columns, [tuple(str(key[column] or "-") for column in columns) for key in doc["keys"]])


def _tell_revoked(_: argparse.Namespace, doc: Doc) -> None:
    for key in doc["revoked"]:
        print(f"revoked: {key['name']} {key['id']}")


ACTIONS: dict[str, Callable[[argparse.Namespace], Doc]] = {
    "new": lambda options: keys_offline.new(options, record_of),
    "list": keys_offline.listed,
    "rotate": keys_offline.rotate,
    "revoke": keys_offline.revoke,
}
TELL = {"new": _tell_key, "rotate": _tell_key, "list": _tell_list, "revoke": _tell_revoked}
