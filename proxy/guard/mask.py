"""Personal data out of a request: flagged, masked or refused, as the policy says. Changes the masked bytes and not one other."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import accumulate
from operator import attrgetter
from typing import Any

import re2

from proxy.exchange import value
from proxy.guard.find import Family, Finder, Hit, finder
from proxy.guard.texts import texts
from proxy.guard.vault import Vault
from proxy.policy.plan import GuardRules
from proxy.refusal import Refusal
from proxy.stream.spans import Edit, Text, edit

_PLACEHOLDER = re2.compile(rb"\[[A-Z_]{3,20}_[0-9]{1,9}\]")
_ENTITY = attrgetter("entity")
Found = Mapping[tuple[str, str, str], int]  # (entity, direction, action) → count


@value(frozen=True, slots=True)
class Inspected:
    body: bytes = field(repr=False)
    found: Found
    vault: Vault


class Blocked(Refusal):
    """The guard's no, with what it counted: entity classes and numbers, never values."""

    def __init__(self, code: str, message: str, found: Found) -> None:
        super().__init__(400, code, message, should_retry=False)
        self.found = found


def inspect(raw: bytes, surface: tuple[str, ...], rules: GuardRules, families: Sequence[Family] = ()) -> Inspected | None:
    """A JSON body (accepted by `read_json`) as it may leave; None where nothing was found in it. Only what `surface` reaches is read.
    `families`: those that may find something in it, as far as somebody has looked.

    Raises Blocked (`content_blocked`) where an entity's action is block; a fault of our own is a Refusal 500 `internal`
    under `on_error: block`, and a flagged pass under `on_error: pass`.
    """
    try:
        eyes, _ = rules.sight or _sight(rules)
        families = families or eyes.look(raw)
        return _inspect(raw, surface, rules, families) if families and surface else None
    except Refusal:
        raise
    except Exception as fault:
        if rules.on_error == "block":
            raise Refusal(500, "internal", "the body could not be inspected; nothing was sent") from fault
        return Inspected(raw, {("uninspected", "in", "flag"): 1}, Vault())


def inspect_other(kinds: tuple[str, ...], rules: GuardRules) -> Found:
    """Content that no text rule can read ("image", "audio", "pdf" …), under `guard.uninspected`. Raises Blocked `uninspected_content`."""
    if not kinds or not rules.is_on or rules.uninspected == "pass":
        return {}
    found: Found = {(kind, "in", rules.uninspected): count for kind, count in Counter(kinds).items()}
    if rules.uninspected == "block":
        raise Blocked(
            "uninspected_content", f"the request holds {_listed(Counter(kinds))}, which cannot be inspected (guard.uninspected)", found
        )
    return found


def _inspect(raw: bytes, surface: tuple[str, ...], rules: GuardRules, families: Sequence[Family]) -> Inspected | None:
    """`families`: those that may find something in it."""
    eyes, is_ignored = rules.sight
    pieces = [text for text, _ in texts(raw, surface)]
    joined = b"\n".join([piece.text for piece in pieces])
    if not eyes.is_sure(families):
        families = eyes.look(joined)
    hits = eyes.find(joined, families)
    if rules.ignore:
        hits = [hit for hit in hits if not is_ignored(joined[hit.start : hit.end])]
    if not hits:
        return None
    found: Found = {(entity, "in", rules.entities[entity]): count for entity, count in Counter(map(_ENTITY, hits)).items()}
    if blocked := {entity: count for (entity, _, action), count in found.items() if action == "block"}:
        raise Blocked("content_blocked", f"the request holds {_listed(blocked)}, which the policy does not let out (guard.pii)", found)
    taken = {*_PLACEHOLDER.findall(joined), *_PLACEHOLDER.findall(raw)}
    vault = Vault(taken.__contains__)
    if any(action != "mask" for _, _, action in found):
        hits = [hit for hit in hits if rules.entities[hit.entity] == "mask"]
    return Inspected(edit(raw, _edits(pieces, joined, hits, vault)), found, vault)


def _edits(pieces: list[Text], joined: bytes, hits: list[Hit], vault: Vault) -> list[Edit]:
    begins = list(accumulate((len(piece.text) + 1 for piece in pieces), initial=0))
    edits: list[Edit] = []
    for start, end, entity in hits:
        number = bisect_right(begins, start) - 1
        piece, begin = pieces[number], begins[number]
        token = vault.placeholder(entity, joined[start:end].decode())
        if not piece.is_number:
            edits.append((piece.raw_at(start - begin), piece.raw_at(end - begin), token))
        elif not edits or edits[-1][0] != piece.raw_at(0):  # a number gives way whole, to a string
            quote = _quote(piece)
            edits.append((piece.raw_at(0), piece.raw_at(len(piece.text)), quote + token + quote))
    return edits


def _quote(piece: Text) -> bytes:
    """A quotation mark as it stands in JSON that is itself quoted so many times."""
    depth = 0
    while piece.outer is not None:
        piece, depth = piece.outer, depth + 1
    return b"\\" * ((1 << depth) - 1) + b'"'


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


class _Ignore:
    def __init__(self, globs: tuple[str, ...]) -> None:
        patterns = [".*".join(re2.escape(part) for part in glob.split("*")) for glob in globs]
        self._pattern: Any = re2.compile("(?is)" + "|".join(f"(?:{pattern})" for pattern in patterns)) if globs else None

    def __call__(self, value: bytes) -> bool:
        return self._pattern is not None and self._pattern.fullmatch(value) is not None


def _sight(rules: GuardRules) -> tuple[Finder, _Ignore]:
    """What these rules want looked for, compiled, and kept with them."""
    sight = finder(frozenset([entity for entity, action in rules.entities.items() if action != "off"])), _Ignore(rules.ignore)
    object.__setattr__(rules, "sight", sight)
    return sight
