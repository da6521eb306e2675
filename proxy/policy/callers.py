"""`callers:` of the policy → `plan.CallerRules`: digests, issuers and defaults. Identifies nobody."""

from __future__ import annotations

import hashlib
import ipaddress
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from proxy.exchange import Allow
from proxy.policy.document import Document
from proxy.policy.plan_callers import CallerRules, JwtIssuer, KeyRecord, TokenRecord
from proxy.policy.problems import Path
from proxy.policy.secrets import Secrets

if TYPE_CHECKING:
    from proxy.policy.model_callers import ClaimFrom, JwtEntry, KeyEntry
    from proxy.policy.model_match import AllowPart

MIN_HS256 = 32  # bytes, RFC 7518 section 3.2


def compile_callers(document: Document, secrets: Secrets, listen: str) -> CallerRules:
    """`listen` decides the defaults of anonymous and pass_through."""
    model = document.model
    callers = model.callers
    keys: list[KeyRecord] = []
    tokens: list[TokenRecord] = []
    for index, entry in enumerate(callers.keys):
        at: Path = ("callers", "keys", index)
        if entry.hash is not None:
            keys.append(record_of(entry, bytes.fromhex(entry.hash.removeprefix("sha256:")), model.time_zone))
        elif entry.key is not None:
            secret = secrets.line(entry.key, (*at, "key"))
            digest = hashlib.sha256(secret.encode("ascii")).digest()
            if secret and any(token.record.digest == digest for token in tokens):
                secrets.problems.append(document.problem((*at, "key"), "the same token as another caller's; each caller needs its own"))
            tokens.append(TokenRecord(record_of(entry, digest, model.time_zone), entry.own_provider_key))
    is_open = is_local(listen) and not (callers.keys or callers.jwt)
    return CallerRules(
        keys=tuple(keys),
        tokens=tuple(tokens),
        issuers=tuple(_issuer(document, index, entry, secrets) for index, entry in enumerate(callers.jwt)),
        anonymous=_door(callers.anonymous, is_open),
        pass_through=_door(callers.pass_through, is_open),
        default_tier=callers.default_tier,
        end_user=callers.end_user,
        tiers=frozenset(model.tiers),
        teams=frozenset(model.teams),
        is_anonymous_stated=callers.anonymous is not None,
    )


def is_local(listen: str) -> bool:
    """A unix socket, or an address that only this machine reaches."""
    if listen.startswith("unix:"):
        return True
    host = listen.rpartition(":")[0].strip("[]").lower()
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def expiry_ns(day: str, time_zone: str) -> int:
    """The first instant of that day in the zone, ns since the epoch (where clocks skip midnight, the first one after it).

    Days before 1970 and after 2262 stand at the nearest that 64 bits hold. Raises ValueError for what is no day.
    """
    year = date.fromisoformat(day).year
    if not 1970 < year < 2262:
        return 1 if year <= 1970 else 2**63 - 1
    zone = ZoneInfo(time_zone)
    start = datetime.combine(date.fromisoformat(day), datetime.min.time(), zone)
    while start.astimezone(ZoneInfo("UTC")).astimezone(zone).replace(fold=0) != start:
        start += timedelta(minutes=1)
    return int(start.timestamp()) * 1_000_000_000


def allow_of(part: AllowPart) -> Allow:
    """The frozen form that travels with the caller."""
    return Allow(part.models, part.providers, part.regions, part.tiers)


def _door(said: str | None, is_open: bool) -> str | None:
    if said is None:
        return "" if is_open else None
    return None if said == "deny" else said


def record_of(entry: KeyEntry, digest: bytes, time_zone: str) -> KeyRecord:
    """The frozen form of an entry; `expires` is a day of `time_zone`."""
    return KeyRecord(
        entry.name,
        digest,
        entry.tier,
        entry.team,
        allow_of(entry.allow),
        MappingProxyType(dict(entry.overrides.given)),
        expiry_ns(entry.expires, time_zone) if entry.expires else None,
    )


def _issuer(document: Document, index: int, entry: JwtEntry, secrets: Secrets) -> JwtIssuer:
    at: Path = ("callers", "jwt", index)
    secret = secrets.optional(entry.secret, (*at, "secret"))
    if secret and len(secret.encode()) < MIN_HS256:
        secrets.problems.append(document.problem((*at, "secret"), f"{entry.secret} is shorter than {MIN_HS256} bytes, which HS256 needs"))
    team, tier = entry.claims.team, entry.claims.tier
    return JwtIssuer(
        name=entry.name,
        issuer=entry.issuer,
        jwks_url=entry.jwks,
        secret=secret,
        audience=entry.audience,
        algorithms=entry.accepted,
        name_claim=entry.claims.name,
        team_claim=team.from_ if team else None,
        team_map=_map(team),
        tier_claim=tier.from_ if tier else None,
        tier_map=_map(tier),
        allow=allow_of(entry.allow),
        max_lifetime_s=entry.max_lifetime,
    )


def _map(claim: ClaimFrom | None) -> MappingProxyType[str, str] | None:
    return None if claim is None or claim.map is None else MappingProxyType(dict(claim.map))
