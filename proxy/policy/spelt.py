"""The names that a policy spells: models for labels, providers. Checks none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.policy.builtin import BUILT_IN
from proxy.policy.problems import Path

if TYPE_CHECKING:
    from proxy.policy.model import PolicyModel
    from proxy.policy.model_limits import AtLimit, Degrade
    from proxy.policy.model_match import AllowPart, Match


def spelt_models(model: PolicyModel) -> frozenset[str]:
    """Model names that the policy spells (no globs): labels may hold them."""
    found: set[str] = set()
    for provider in model.providers.values():
        found |= set(provider.models)
    for table in (model.fallback or {}, *(rule.fallback or {} for rule in model.rules)):
        found |= {*table, *(target for targets in table.values() for target in targets)}
    for degrade in degrades_of(model).values():
        found |= {*degrade.models, *degrade.models.values()}
    found |= set(model.prices) | {rule.send_to for rule in model.rules if rule.send_to}
    for allow in allows_of(model):
        found |= set(allow.models or ())
    for match in [limit.match for limit in model.limits] + [rule.match for rule in model.rules]:
        found |= _matched_models(match)
    names = known_provider_names(model)
    bare = {name.partition("/")[2] if name.partition("/")[0] in names else name for name in found}
    return frozenset(name for name in bare if name and "*" not in name)


def allows_of(model: PolicyModel) -> list[AllowPart]:
    """Every `allow:` of the policy."""
    named = [team.allow for team in model.teams.values()] + [key.allow for key in model.callers.keys]
    return named + [issuer.allow for issuer in model.callers.jwt] + [rule.allow for rule in model.rules if rule.allow is not None]


def degrades_of(model: PolicyModel) -> dict[Path, Degrade]:
    """Every `degrade:` of the policy, by where it stands."""
    parts: dict[Path, AtLimit | None] = {("at_limit",): model.at_limit}
    parts |= {("teams", name, "at_limit"): team.at_limit for name, team in model.teams.items()}
    parts |= {("limits", index, "at_limit"): limit.at_limit for index, limit in enumerate(model.limits)}
    parts |= {("rules", index, "at_limit"): rule.at_limit for index, rule in enumerate(model.rules)}
    return {(*path, "degrade"): part.degrade for path, part in parts.items() if part is not None and part.degrade is not None}


def known_provider_names(model: PolicyModel) -> frozenset[str]:
    """Of the policy and built in."""
    return frozenset(BUILT_IN) | frozenset(model.providers)


def _matched_models(match: Match) -> set[str]:
    return set(match.model or ()) | (_matched_models(match.not_) if match.not_ else set())
