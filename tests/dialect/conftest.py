"""A second, independent reading of the surface grammar, by regular expressions over flattened paths."""

import json
import re

import pytest


def _leaves(value, path=()):
    if isinstance(value, str):
        yield ".".join(map(str, path)), value
    elif isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(child, (*path, key))


def _pattern(dotted):
    parts = []
    for key in dotted.split("."):
        parts.append(r"(?:\.[^.]+)*" if key == "**" else r"\.[^.]+" if key == "*" else re.escape(f".{key}"))
    return re.compile("".join(parts))


def _reached(surface, doc):
    found = set()
    for path, value in _leaves(doc):
        for dotted in surface:
            if not _pattern(dotted.removesuffix("!json").removesuffix("!text")).fullmatch("." + path if path else ""):
                continue
            if dotted.endswith("!text") and re.fullmatch(r"[A-Za-z0-9+/=_-]{64,}", value):
                continue
            found |= {leaf for _, leaf in _leaves(json.loads(value))} if dotted.endswith("!json") else {value}
    return found


def _canaries(doc):
    found = set()
    for _, value in _leaves(doc):
        if value.startswith("{"):
            found |= {leaf for _, leaf in _leaves(json.loads(value))}
        elif value.startswith("T:"):
            found.add(value)
    return found


@pytest.fixture(scope="session")
def reached():
    """(surface, doc) → the strings that the surface names; JSON inside strings is opened."""
    return _reached


@pytest.fixture(scope="session")
def canaries():
    """Every string of a body that is text: by convention of these tests it begins with `T:`."""
    return _canaries
