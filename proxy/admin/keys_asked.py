"""Reads what an admin request asks of the keys, out of its body: in the words of `callers.keys` of the policy. Mints nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping

import orjson

from proxy.admin.say import AdminProblem
from proxy.policy import values
from proxy.policy.callers import record_of
from proxy.policy.plan_callers import CallerRules, KeyRecord
from proxy.policy.problems import path_text

FIELDS = ("name", "tier", "team", "expires", "overrides", "allow")
OVERLAP_S = 24 * 3600.0  # of old and new where nothing else is asked
MOST_OVERLAP_S = 90 * 86400.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def read_key_asked(raw: bytes, digest: bytes, rules: CallerRules, time_zone: str, now_ns: int = 0) -> KeyRecord:
    """The record of a key to be minted, from the JSON body. `now_ns`: it must outlive this instant. Raises AdminProblem 400."""
    doc = _object(raw, FIELDS)
    name = doc.get("name")
    if not (isinstance(name, str) and _NAME.fullmatch(name)) or name == "anonymous":
        raise bad("`name` is missing or no name", "give 1 to 64 letters, digits, dots, dashes, underscores or @, and not `anonymous`")
    from pydantic import ValidationError  # all that comes with these is not needed by who never mints here

    from proxy.policy.model_callers import KeyEntry
    from proxy.policy.wording import findings

    try:
        entry = KeyEntry.model_validate({**doc, "hash": f"sha256:{digest.hex()}"})
        record = record_of(entry, digest, time_zone)
    except ValidationError as error:
        path, _, sentence = findings(error, KeyEntry)[0]
        raise bad(f"`{path_text(path)}`: {sentence}", "the words are those of `callers.keys` in the policy; see `sluice schema`") from None
    except ValueError:
        raise bad("`expires` is no date", "give YYYY-MM-DD") from None
    if record.expires_ns is not None and record.expires_ns <= now_ns:
        raise bad("`expires` is over already", "give a day to come, or leave it out")
    for field, given, declared in (("tier", entry.tier, rules.tiers), ("team", entry.team, rules.teams)):
        if given is not None and given not in declared:
            raise bad(f"`{field}` is not declared in the policy", f"declare it under {field}s:, or leave it out")
    return record


def read_overlap_asked(raw: bytes) -> int:
    """How long old and new are both valid, ns, from the JSON body (`{"overlap": "24h"}`; none: a day). Raises AdminProblem 400."""
    doc = _object(raw or b"{}", ("overlap",))
    given = doc.get("overlap")
    try:
        overlap_s = OVERLAP_S if given is None else 0.0 if given in ("0", "0s") else values.duration(given)
    except ValueError:
        raise bad("`overlap` is no time", "give 0s, 30m, 24h or 7d") from None
    if overlap_s > MOST_OVERLAP_S:
        raise bad("`overlap` is longer than 90 days", "revoke the old key when it is no longer needed")
    return int(overlap_s * 1_000_000_000)


def bad(message: str, fix: str) -> AdminProblem:
    return AdminProblem(400, "invalid_request", message, fix)


def _object(raw: bytes, known: tuple[str, ...]) -> dict[str, object]:
    """Without the fields that are null; lists as tuples, as the policy's values have them."""
    try:
        doc = orjson.loads(raw)
        frozen = _frozen(doc)
    except (ValueError, RecursionError):
        raise bad("the body is not JSON, or nested too deep", f"send an object with {', '.join(known)}") from None
    if not isinstance(frozen, dict):
        raise bad("the body is not a JSON object", f"send an object with {', '.join(known)}")
    if any(name not in known for name in frozen):
        raise bad("there is a field that is not known here", "known are " + ", ".join(known))
    return {name: value for name, value in frozen.items() if value is not None}


def _frozen(value: object) -> object:
    if isinstance(value, list):
        return tuple(_frozen(it) for it in value)
    return {name: _frozen(it) for name, it in value.items()} if isinstance(value, Mapping) else value
