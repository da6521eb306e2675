"""The keys minted into a state: what is known of each, and how two sidecars that know different things agree. Sees no key itself.

What is known of a key only ever grows: a revocation is never taken back, an end is never put off. So the order in which
sidecars hear of it does not matter, and hearing of it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from proxy.exchange import Allow
from proxy.memo import the_one
from proxy.policy.plan import Rate, Spend
from proxy.policy.plan_callers import KeyRecord

SHOWN_DIGITS = 12  # hex digits of a digest that name a key in lists: no two of a million are alike


@dataclass(frozen=True, slots=True)
class Kept:
    """A key as the state keeps it. `record.expires_ns` is its end, whether it was minted so or rotated; instants are ns."""

    record: KeyRecord
    created_ns: int = 0  # 0: not minted here, it stands in the policy file
    rotated_ns: int | None = None  # since then there is a newer one, and this one ends soon
    revoked_ns: int | None = None  # dead for good since then

    @property
    def id(self) -> str:
        """What lists show of the digest."""
        return self.record.digest.hex()[:SHOWN_DIGITS]


def ended(kept: Kept, end_ns: int, now_ns: int) -> Kept:
    """A newer key takes its place: it is valid until `end_ns` at most."""
    end = end_ns if kept.record.expires_ns is None else min(end_ns, kept.record.expires_ns)
    return replace(kept, record=replace(kept.record, expires_ns=end), rotated_ns=kept.rotated_ns or now_ns)


def revoked(kept: Kept, now_ns: int) -> Kept:
    return replace(kept, record=replace(kept.record, is_revoked=True), revoked_ns=kept.revoked_ns or now_ns)


def joined(one: Kept, other: Kept) -> Kept:
    """What both know of the same key. The order does not matter, but for `created_ns`, which is the same in both or 0 in one."""
    ends = [it for it in (one.record.expires_ns, other.record.expires_ns) if it is not None]
    rotations = [it for it in (one.rotated_ns, other.rotated_ns) if it is not None]
    revocations = [it for it in (one.revoked_ns, other.revoked_ns) if it is not None]
    full = one if one.created_ns else other
    record = replace(full.record, expires_ns=min(ends, default=None), is_revoked=bool(revocations))
    return Kept(record, full.created_ns, min(rotations, default=None), min(revocations, default=None))


# -- as JSON -------------------------------------------------------------------------------------------------------------


def dumped(kept: Kept) -> bytes:
    """Without the digest, which is its key wherever it is kept."""
    record = kept.record
    return orjson.dumps(
        {
            "name": record.name,
            "tier": record.tier,
            "team": record.team,
            "allow": {name: getattr(record.allow, name) for name in Allow.__slots__},
            "overrides": _numbers_out(record.overrides),
            "expires_ns": record.expires_ns,
            "created_ns": kept.created_ns,
            "rotated_ns": kept.rotated_ns,
            "revoked_ns": kept.revoked_ns,
        }
    )


def loaded(digest: bytes, text: str | bytes) -> Kept:
    """Also of a state before keys could be rotated. Raises ValueError, KeyError, TypeError for what `dumped` never wrote."""
    doc = orjson.loads(text)
    allow = Allow(**{name: None if it is None else tuple(it) for name, it in doc["allow"].items()})
    revoked_ns = doc.get("revoked_ns")
    record = KeyRecord(
        doc.get("name", ""),
        digest,
        the_one(doc["tier"]),
        the_one(doc["team"]),
        the_one(allow),
        _numbers_in(doc["overrides"]),
        doc["expires_ns"],
        revoked_ns is not None,
    )
    return Kept(record, doc.get("created_ns", 0), doc.get("rotated_ns"), revoked_ns)


def _numbers_out(numbers: Mapping[str, Any]) -> dict[str, object]:
    """requests, tokens: [[count, seconds]] · spend: [[nano-dollars, period]] · concurrency: a number; None: off."""
    parts: dict[str, object] = {}
    for name, given in numbers.items():
        if name in ("requests", "tokens"):
            parts[name] = [[rate.count, rate.period_s] for rate in given or ()]
        elif name == "spend":
            parts[name] = [[spend.nanousd, spend.period] for spend in given or ()]
        else:
            parts[name] = given
    return parts


def _numbers_in(parts: Mapping[str, Any]) -> dict[str, object]:
    numbers: dict[str, object] = {}
    for name, given in parts.items():
        if name in ("requests", "tokens"):
            numbers[name] = tuple(Rate(count, period_s) for count, period_s in given)
        elif name == "spend":
            numbers[name] = tuple(Spend(nanousd, period) for nanousd, period in given)
        else:
            numbers[name] = given
    return numbers


# -- all of them ---------------------------------------------------------------------------------------------------------


class NoSuchKey(Exception):
    """Nothing in the state or the policy has this name or id."""


class Keyring:
    """All keys of a state, in memory. It writes nothing itself: what changed is given back to be kept."""

    def __init__(self, kept: Iterable[Kept] = ()) -> None:
        self._kept: dict[bytes, Kept] = {}
        self._names: set[str] = set()
        self._records: dict[bytes, KeyRecord] = {}  # of each in `_kept`
        # The record with this digest, also one that is revoked or past its end: whoever asks refuses it by name
        self.find: Callable[[bytes], KeyRecord | None] = self._records.get
        self.mark = object()  # another one whenever one of the records is: who has found a key since need not look again
        self.learn(kept)

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._kept.values())

    def has_name(self, name: str) -> bool:
        return name in self._names

    def news(self, others: Iterable[Kept]) -> list[Kept]:
        """What is news among them, each key once and joined with what is known."""
        news: dict[bytes, Kept] = {}
        for other in others:
            digest = other.record.digest
            known = news.get(digest) or self._kept.get(digest)
            kept = other if known is None else joined(known, other)
            if kept != known:
                news[digest] = kept
        return list(news.values())

    def learn(self, others: Iterable[Kept]) -> list[Kept]:
        """As `news`; valid from now on."""
        news = self.news(others)
        if news:
            self.mark = object()
        for kept in news:
            self._kept[kept.record.digest], self._records[kept.record.digest] = kept, kept.record
            self._names.add(kept.record.name)
        return news

    def named(self, name: str, declared: Sequence[KeyRecord]) -> list[Kept]:
        """The keys of this name: minted ones, and those of the policy (`declared`) that the state knows nothing of yet."""
        minted = [kept for kept in self if kept.record.name == name]
        known = {kept.record.digest for kept in minted}
        return minted + [Kept(record) for record in declared if record.name == name and record.digest not in known]

    def with_id(self, id: str, declared: Sequence[KeyRecord]) -> list[Kept]:
        """The keys whose digest begins with `id`, at least as long as it is shown."""
        if len(id) < SHOWN_DIGITS:
            return []
        known = {kept.record.digest for kept in self}
        every = [*self, *(Kept(record) for record in declared if record.digest not in known)]
        return [kept for kept in every if kept.record.digest.hex().startswith(id)]


def rotation(ring: Keyring, name: str, digest: bytes, overlap_ns: int, now_ns: int, declared: Sequence[KeyRecord]) -> list[Kept]:
    """The new key, like the newest of its name that is alive, and that the old ones end after `overlap_ns`. Raises NoSuchKey."""
    alive = [kept for kept in ring.named(name, declared) if is_alive(kept, now_ns)]
    if not alive:
        raise NoSuchKey(name)
    model = max(alive, key=lambda kept: (kept.rotated_ns is None, kept.created_ns))
    end = model.record.expires_ns if model.rotated_ns is None else None  # that of an overlap is not the new key's
    fresh = Kept(replace(model.record, digest=digest, expires_ns=end, is_revoked=False), now_ns)
    return [fresh, *(ended(kept, now_ns + overlap_ns, now_ns) for kept in alive)]


def is_alive(kept: Kept, now_ns: int) -> bool:
    return kept.revoked_ns is None and (kept.record.expires_ns is None or now_ns < kept.record.expires_ns)
