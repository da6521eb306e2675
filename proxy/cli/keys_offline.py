"""The keys in a state that no process uses: the commands' own way there. Knows no policy, so no tier, team or declared key is checked."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from proxy.admin.keys import shown
from proxy.admin.keys_asked import read_overlap_asked
from proxy.admit import StateProblem, keys_offline
from proxy.admit.keyring import Kept, Keyring, NoSuchKey, revoked, rotation
from proxy.cli import admin
from proxy.cli.state import state_path, state_place
from proxy.cli.terminal import hint
from proxy.identify.keys import KEY_BYTES, mint
from proxy.policy.plan_callers import KeyRecord
from proxy.record.rows import rfc3339
from proxy.states import Fleet

Doc = dict[str, Any]
RecordOf = Callable[[argparse.Namespace, bytes], KeyRecord]


class SomeKeys(Protocol):
    """`admit.keys.OfflineKeys`, or those of a fleet."""

    def all(self) -> list[Kept]: ...
    def change(self, decide: Callable[[Keyring], Sequence[Kept]]) -> list[Kept]: ...


NOT_HERE = "no key that could be meant is alive in this state under this name or id; `sluice keys list` shows them"


def new(options: argparse.Namespace, record_of: RecordOf) -> Doc:
    key, digest = mint(os.urandom(KEY_BYTES))
    record = record_of(options, digest)
    with _keys(options) as keys:
        keys.change(lambda _: [Kept(record, time.time_ns())])
    where, since = state_place(admin.state_asked(options.state)), "once `sluice serve` uses it"
    valid = "in every sidecar within two seconds" if isinstance(where, Fleet) else since
    what = f"the state {where}" + (f", namespace {options.namespace}" if isinstance(where, Fleet) else "")
    hint(f"no process asked; minted into {what}, valid {valid}, and shown this once")
    if record.expires_ns is not None:
        hint("no policy is known here: the day that it expires begins as in UTC")
    if record.tier or record.team:
        hint("whether the policy declares this tier and team was not checked: it refuses the key with 403 if not")
    return {"key": key, **shown(Kept(record, time.time_ns()), time.time_ns())}


def listed(options: argparse.Namespace) -> Doc:
    with _keys(options) as keys:
        return {"keys": [shown(kept, time.time_ns()) for kept in sorted(keys.all(), key=lambda it: (it.record.name, it.created_ns))]}


def rotate(options: argparse.Namespace) -> Doc:
    overlap_ns, now_ns = read_overlap_asked(json.dumps({"overlap": options.overlap}).encode()), time.time_ns()
    key, digest = mint(os.urandom(KEY_BYTES))

    def decide(ring: Keyring) -> list[Kept]:
        try:
            return rotation(ring, options.name, digest, overlap_ns, now_ns, ())
        except NoSuchKey:
            raise ValueError(NOT_HERE) from None

    with _keys(options) as keys:
        fresh = keys.change(decide)[0]
    return {"key": key, **shown(fresh, now_ns), "old_until": rfc3339(now_ns + overlap_ns)}


def revoke(options: argparse.Namespace) -> Doc:
    now_ns = time.time_ns()

    def decide(ring: Keyring) -> list[Kept]:
        found = ring.with_id(options.id, ()) if options.id else ring.named(options.name or "", ())
        if not found:
            raise ValueError(NOT_HERE)
        return [revoked(kept, now_ns) for kept in found]

    with _keys(options) as keys:
        return {"revoked": [shown(kept, now_ns) for kept in keys.change(decide)]}


@contextmanager
def _keys(options: argparse.Namespace) -> Iterator[SomeKeys]:
    url = admin.state_asked(options.state)
    place = state_place(url)
    if isinstance(place, Fleet):
        from proxy.admit.fleet.keys_alone import fleet_keys

        with fleet_keys(place.address, options.namespace) as shared:
            yield shared
        return
    path = state_path(url)
    if path is None:
        raise ValueError("memory: keeps no key; start `sluice serve` and name its listener with --admin, or use --print")
    try:
        with keys_offline(path) as keys:
            yield keys
    except StateProblem as problem:
        way = "; or name the admin listener of that process with --admin" if "locked" in str(problem) else ""
        raise StateProblem(f"{problem}{way}") from problem
