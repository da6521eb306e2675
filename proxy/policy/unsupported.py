"""Keys that are modelled and not built yet: one row each, deleted by the issue that builds it. Refuses nothing that is off or default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from proxy.policy.plan import ENTITIES
from proxy.policy.problems import Path
from proxy.policy.wording import did_you_mean


@dataclass(frozen=True, slots=True)
class Row:
    """`path` with * for any key or index; values equal to one of `accepts` (or false, off, empty) pass."""

    path: str
    accepts: tuple[object, ...] = ()


ROWS = (
    Row("include"),
    Row("server.tls"),
    Row("callers.signatures"),
    Row("callers.networks"),
    Row("callers.kubernetes"),
    Row("providers.bedrock"),
    Row("providers.*.credentials"),
    *(Row(f"{where}guard.{key}") for where in ("", "rules.*.") for key in ("secrets", "injection", "output", "custom")),
    *(Row(f"{where}{key}") for where in ("", "rules.*.") for key in ("inputs", "hedge", "cache", "single_flight", "optimize")),
    Row("keepalive"),
    Row("models"),
    Row("shadow"),
    Row("observe.otlp"),
)


def unsupported(data: Mapping[str, object]) -> Iterator[tuple[Path, str]]:
    """(path, sentence) of every key of the policy that asks for what is not built yet."""
    for row in ROWS:
        for path, value in _found(data, tuple(row.path.split(".")), ()):
            if not _is_off(value) and not any(_is_part(value, accepted) for accepted in row.accepts):
                yield path, "not supported yet"
    for path, value in _found(data, ("providers", "*", "dialect"), ()):
        if value == "bedrock" and path[1] != "bedrock":
            yield path, "not supported yet"
    for where in (("guard", "pii", "*"), ("rules", "*", "guard", "pii", "*")):
        for path, _ in _found(data, where, ()):
            if path[-1] not in (*ENTITIES, "default"):
                near = did_you_mean(path[-1], (*ENTITIES, "default"))
                known = f"the entities are {', '.join(ENTITIES)}, and default for all of them"
                yield path, f"unknown entity{near}" if near else f"not supported yet; {known}"


def _is_off(value: object) -> bool:
    return value is False or value in ("off", (), {})


def _is_part(value: object, accepted: object) -> bool:
    if isinstance(value, dict) and isinstance(accepted, dict):
        return all(accepted.get(key) == item for key, item in value.items())
    return value == accepted


def _found(data: object, pattern: tuple[str, ...], path: Path) -> Iterator[tuple[Path, object]]:
    if not pattern:
        yield path, data
    elif pattern[0] == "*" and isinstance(data, tuple):
        for index, item in enumerate(data):
            yield from _found(item, pattern[1:], (*path, index))
    elif isinstance(data, dict):
        for key in list(data) if pattern[0] == "*" else [key for key in (pattern[0],) if key in data]:
            yield from _found(data[key], pattern[1:], (*path, key))
