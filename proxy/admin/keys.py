"""The keys of the state, over the admin API: minted, listed, rotated, revoked. A key itself is shown once and kept nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from aiohttp import web

from proxy.admin.keys_asked import bad, read_key_asked, read_overlap_asked
from proxy.admin.say import AdminProblem, json_reply
from proxy.admit.keyring import Kept, NoSuchKey
from proxy.identify.keys import KEY_BYTES, mint
from proxy.policy.plan import Rulebook
from proxy.policy.plan_callers import KeyRecord
from proxy.record.rows import rfc3339


class Keys(Protocol):
    """What these pages ask of the keys of the state (`admit.keys.Keys`)."""

    def all(self) -> list[Kept]: ...
    async def add(self, record: KeyRecord) -> None: ...
    async def rotate(self, name: str, digest: bytes, overlap_ns: int, declared: Sequence[KeyRecord]) -> Kept: ...
    async def revoke(self, declared: Sequence[KeyRecord], *, name: str | None = None, id: str | None = None) -> list[Kept]: ...


class KeyPages:
    """`dice` gives random bytes, `now_ns` the wall clock."""

    def __init__(self, keys: Keys, rulebook: Callable[[], Rulebook], dice: Callable[[int], bytes], now_ns: Callable[[], int]) -> None:
        self._keys, self._rulebook, self._dice, self._now_ns = keys, rulebook, dice, now_ns

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/admin/keys", self._list),
            web.post("/admin/keys", self._new),
            web.post("/admin/keys/{name}/rotate", self._rotate),
            web.delete("/admin/keys/{name}", self._revoke),
            web.delete("/admin/keys/id/{id}", self._revoke),
        ]

    async def _list(self, _: web.Request) -> web.Response:
        now_ns = self._now_ns()
        minted = self._keys.all()
        known = {kept.record.digest for kept in minted}
        declared = [Kept(record) for record in declared_keys(self._rulebook()) if record.digest not in known]
        return json_reply(200, {"keys": [shown(kept, now_ns) for kept in sorted([*minted, *declared], key=_order)]})

    async def _new(self, request: web.Request) -> web.Response:
        key, digest = mint(self._dice(KEY_BYTES))
        rulebook = self._rulebook()
        raw = await _json(request)
        record = await asyncio.to_thread(read_key_asked, raw, digest, rulebook.callers, rulebook.time_zone, self._now_ns())
        await self._keys.add(record)
        return json_reply(201, {"key": key, **shown(Kept(record, self._now_ns()), self._now_ns())})

    async def _rotate(self, request: web.Request) -> web.Response:
        key, digest = mint(self._dice(KEY_BYTES))
        overlap_ns = read_overlap_asked(await _json(request))
        try:
            fresh = await self._keys.rotate(request.match_info["name"], digest, overlap_ns, declared_keys(self._rulebook()))
        except NoSuchKey:
            raise _unknown() from None
        now_ns = self._now_ns()
        return json_reply(201, {"key": key, **shown(fresh, now_ns), "old_until": rfc3339(now_ns + overlap_ns)})

    async def _revoke(self, request: web.Request) -> web.Response:
        asked = request.match_info
        try:
            dead = await self._keys.revoke(declared_keys(self._rulebook()), name=asked.get("name"), id=asked.get("id"))
        except NoSuchKey:
            raise _unknown() from None
        return json_reply(200, {"revoked": [shown(kept, self._now_ns()) for kept in dead]})


def declared_keys(rulebook: Rulebook) -> tuple[KeyRecord, ...]:
    """Those of the policy: Sluice keys by their hash, and tokens that existed before."""
    return (*rulebook.callers.keys, *(token.record for token in rulebook.callers.tokens))


def shown(kept: Kept, now_ns: int) -> dict[str, object]:
    """What may be known of a key: `id` is the beginning of its digest, of no use to whoever wants in."""
    record = kept.record
    return {
        "id": kept.id,
        "name": record.name,
        "tier": record.tier,
        "team": record.team,
        "state": _state(kept, now_ns),
        "source": "state" if kept.created_ns else "policy",
        "created": _instant(kept.created_ns or None),
        "expires": _instant(record.expires_ns),
        "revoked": _instant(kept.revoked_ns),
        "own_limits": sorted(record.overrides),
    }


def _state(kept: Kept, now_ns: int) -> str:
    if kept.revoked_ns is not None:
        return "revoked"
    if kept.record.expires_ns is not None and now_ns >= kept.record.expires_ns:
        return "expired"
    return "rotated" if kept.rotated_ns is not None else "active"


def _order(kept: Kept) -> tuple[str, int]:
    return kept.record.name, kept.created_ns


def _instant(at_ns: int | None) -> str | None:
    return None if at_ns is None else rfc3339(at_ns)


async def _json(request: web.Request) -> bytes:
    if request.content_type != "application/json":  # a form of a web page cannot send this
        raise bad("the body is not declared as JSON", "send `Content-Type: application/json`")
    return await request.read()


def _unknown() -> AdminProblem:
    return AdminProblem(404, "unknown_key", "no key that could be meant is alive under this name or id", "GET /admin/keys lists them")
