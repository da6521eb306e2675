"""The request-target for another provider of the same wire family, or another model. Touches nothing else of it, and no origin."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from proxy.exchange import Route
from proxy.policy.plan import Provider, Target
from proxy.refusal import Refusal

_DEPLOYMENT = re.compile(r"(/openai/deployments/)([^/]+)(/.*)", re.IGNORECASE)
_GEMINI_MODEL = re.compile(r"(.*/(?:models|tunedModels)/)([^/:]+)(:?.*)")  # the segment that names it, before the verb
_VERTEX = re.compile(r"/v1(?:beta1)?/projects/[^/]+/locations/[^/]+/publishers/google(/models/.*)")
_BY_DEPLOYMENT = re.compile(r"/(?:chat/completions|completions|embeddings|images/|audio/)")  # what Azure serves under a deployment
_AZURE_V1 = "/openai/v1"


def target_for(route: Route, source: Provider, target: Target, named: str | None) -> str:
    """The raw target for `target`, byte-identical where nothing must differ. `named`: the model as the path names it, None if it does not.

    `source` is the provider the caller addressed. Raises Refusal 400 where its path has no counterpart at the target.
    """
    path, query = route.path, route.query
    provider = target.provider
    if provider.name != source.name:
        path, query = _moved(path, query, source, target)
    if named is not None and target.theirs is not None:
        path = _renamed(path, target.theirs)
    if provider.api_version and _DEPLOYMENT.match(path) and not has_parameter(query, "api-version"):
        query = "&".join(filter(None, (query, f"api-version={provider.api_version}")))
    if path == route.path and query == route.query:
        return route.target
    return f"{path}?{query}" if query else path


def has_parameter(query: str, name: str) -> bool:
    return any(pair.partition("=")[0] == name for pair in query.split("&"))


def without_parameter(query: str, name: str) -> str:
    """`query` without each `name=…`, also where the name is percent-encoded; the rest byte-identical."""
    return "&".join(pair for pair in query.split("&") if unquote(pair.partition("=")[0]) != name)


def _moved(path: str, query: str, source: Provider, target: Target) -> tuple[str, str]:
    provider = target.provider
    if provider.family == "openai":
        tail = _openai_tail(path, source)
        if source.dialect == "azure-openai" and provider.dialect != "azure-openai":
            query = without_parameter(query, "api-version")
        return _openai_path(tail, target), query
    if provider.family == "gemini":
        return _gemini_path(path, source, provider), query
    return path, query  # Anthropic and Cohere have one form of path


def _openai_tail(path: str, source: Provider) -> str:
    if deployment := _DEPLOYMENT.fullmatch(path):
        return deployment[3]
    root = _AZURE_V1 if source.dialect == "azure-openai" else source.root
    return path[len(root) :] if path.startswith(root + "/") else path


def _openai_path(tail: str, target: Target) -> str:
    provider = target.provider
    if provider.dialect != "azure-openai":
        return provider.root + tail
    if provider.api_version and target.theirs and _BY_DEPLOYMENT.match(tail):
        return f"/openai/deployments/{quote(target.theirs, safe='')}{tail}"
    return _AZURE_V1 + tail  # Azure's own v1 form: the body names the deployment


def _gemini_path(path: str, source: Provider, provider: Provider) -> str:
    if source.dialect == provider.dialect:
        return path
    inside = _VERTEX.fullmatch(path)
    if inside is None or provider.dialect != "gemini":
        raise Refusal(
            400, "invalid_request", f"this path has no counterpart at {provider.name}: only a Vertex model path has one at Gemini"
        )
    return provider.root + inside[1]


def _renamed(path: str, theirs: str) -> str:
    for shape in (_DEPLOYMENT, _GEMINI_MODEL):
        if found := shape.fullmatch(path):
            return path if unquote(found[2]) == theirs else found[1] + quote(theirs, safe="") + found[3]
    return path
