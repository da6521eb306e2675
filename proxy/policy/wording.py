"""pydantic's findings → sentences a policy's author understands, with "did you mean" and hints for foreign words. Reads no file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from types import NoneType
from typing import Any, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from proxy.policy.model import PolicyModel
from proxy.policy.problems import Path, shown
from proxy.policy.tree import FLAW

FOREIGN_WORDS = {  # what Sluice says: what others say
    "`requests: 60/min`": "rpm rps rate_limit",
    "`tokens: 10k/min`": "tpm",
    "`requests: 1000/day`": "rpd",
    "`tokens: 10k/day`": "tpd",
    "`limits:`": "rate_limits quota quotas",
    "`concurrency`": "max_parallel_requests max_concurrency",
    "`spend: $5/day`": "max_budget budget budget_duration cost",
    "`spend:` of a tier, team or limit": "budgets",
    "`key: env:NAME`": "api_key apikey token",
    "`keys: [env:NAME, …]`": "api_keys",
    "`url`": "api_base",
    "`url`, without /v1": "base_url endpoint",
    "`server: {listen: HOST:PORT}`": "host port bind",
    "`server: {admin_token: env:NAME}`": "master_key",
    "`allow: {models: […]}`": "models_list allowed_models",
    "`providers:` and `models:`": "model_list",
    "`fallback: {model: [provider/model]}`": "fallbacks",
    "`retry: {attempts: 3}`": "num_retries max_retries retries",
    "`timeouts: {first_byte: 60s, total: 10m}`": "timeout",
    "`timeouts: {total: 10m}`": "request_timeout",
    "`breaker`": "circuit_breaker",
    "`callers: {keys: […]}`": "users virtual_keys",
    "`caller`": "user",
    "`callers`": "clients",
    "`guard`": "guardrails",
    "`guard: {pii: mask}`": "pii_masking redact",
    "`providers`": "upstreams upstream provider backends",
    "`rules` with `send_to`": "routes",
    "`send_to`": "route",
    "`models: {ours: theirs}` of a provider": "deployments",
    "`default_max_tokens`": "max_tokens",
    "`time_zone`": "timezone tz",
    "`observe: {logs: {level: info}}`": "log_level logging",
    "`state`": "database_url redis_url redis",
    "`teams`": "groups",
    "`tiers`": "plans",
    "`tier`": "plan",
    "`callers: {networks: …}`": "ip_allowlist",
}
FOREIGN = {word: ours for ours, words in FOREIGN_WORDS.items() for word in words.split()}
MANY = 200  # findings; above it there are no suggestions and names are not checked too: both would take long
KINDS = {
    "model_type": "needs a map",
    "model_attributes_type": "needs a map",
    "dict_type": "needs a map",
    "mapping_type": "needs a map",
    "tuple_type": "needs a list",
    "string_type": "needs text",
    "missing": "is missing and needed",
}


def findings(error: ValidationError, root: type[BaseModel] = PolicyModel) -> list[tuple[Path, bool, str]]:
    """(path, is it about the key?, sentence) of each error; several for one map with several unknown keys."""
    out: list[tuple[Path, bool, str]] = []
    for detail in error.errors(include_url=False, include_input=True):
        path: Path = detail["loc"]
        if FLAW in path:  # a key that is refused already
            continue
        if detail["type"] == "extra_forbidden":
            out.append((path, True, unknown(path[-1], _keys_at(root, path[:-1]) if len(out) < MANY else ())))
        elif detail["type"] == "unknown_keys":
            names = cast(list[str], detail["ctx"]["keys"])
            out += [((*path, name), True, unknown(name, (*_keys_at(root, path), "header:NAME", "claim:NAME"))) for name in names]
        elif detail["input"] != FLAW:  # a flaw is refused already
            out.append((path, detail["type"] == "missing", _sentence(detail)))
    return out


def _sentence(detail: ErrorDetails) -> str:
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "literal_error":
        expected = str(detail["ctx"]["expected"]).replace("'", "").replace(" or ", ", ")
        near = did_you_mean(detail["input"], expected.split(", "))
        return f"needs one of {expected}{near}"
    return KINDS.get(detail["type"], detail["msg"])


def unknown(name: object, known: Iterable[str]) -> str:
    """For a key that is not of the language."""
    foreign = FOREIGN.get(str(name).lower().replace("-", "_"))
    near = did_you_mean(name, known)
    return "unknown key" + (near or (f"; Sluice says {foreign}" if foreign else "; see `sluice schema` for what may stand here"))


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """ "; did you mean `requests`?", or nothing."""
    names = list(known)
    close = difflib.get_close_matches(str(name)[:80], names, 1, 0.7)
    return f"; did you mean `{shown(close[0])}`?" if close and close[0] != name else ""


def _keys_at(root: type[BaseModel], path: Path) -> tuple[str, ...]:
    """The keys that the map at `path` may hold."""
    at: Any = root
    for part in path:
        at = _below(at, part)
    at = _core(at)
    if not (isinstance(at, type) and issubclass(at, BaseModel)):
        return ()
    return tuple(field.alias or name for name, field in at.model_fields.items())


def _below(annotation: Any, part: str | int) -> Any:
    at = _core(annotation)
    if isinstance(at, type) and issubclass(at, BaseModel):
        fields = {field.alias or name: field for name, field in at.model_fields.items()}
        return fields[str(part)].annotation if part in fields else None
    arguments = get_args(at)
    return arguments[-1] if get_origin(at) is not tuple and arguments else arguments[0] if arguments else None


def _core(annotation: Any) -> Any:
    """Without Annotated and without None."""
    while get_origin(annotation) is not None:
        arguments = [one for one in get_args(annotation) if one is not NoneType]
        if hasattr(annotation, "__metadata__") or (get_origin(annotation) in _UNIONS and len(arguments) == 1):
            annotation = arguments[0]
        else:
            break
    return annotation


_UNIONS: tuple[Any, ...] = (Union, type(int | None))
