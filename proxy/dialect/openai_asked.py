"""What an OpenAI request lets the provider add: tools that it runs itself, and input that stands elsewhere. Knows no price."""

from __future__ import annotations

import re

from proxy.dialect.fields import at, items, mapping, text
from proxy.dialect.wire import Json, Operation

ADDED = 64  # tokens of the prompt that explains tools to the model, beside the tools themselves
CLAUDES = 1_024  # the same of Claude, behind a router; recorded: up to 560
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
GIGABYTES = {"1g": 1, "4g": 4, "16g": 16, "64g": 64}  # of a code interpreter's container, billed by memory (OpenAI, Pricing)
SEARCHES = re.compile(r"(?:openrouter:)?(?:web_search|browser_search)(?:_preview)?(?:_\d.*)?")
SEARCHING = "-search-"  # in the name of a model
TALKS = ("previous_response_id", "conversation")  # stored at the provider
MORE = ("plugins", "web_search_options", "search_parameters")
OWN = ("function", "custom", "computer_use_preview", "computer", "local_shell", "apply_patch")  # tools that the caller runs


def tools_asked(op: Operation, doc: Json) -> tuple[tuple[str, int], ...]:
    """(unit, uses at most) of each tool with a fee of its own; 0 uses: the request does not bound them."""
    most = _count(doc.get("max_tool_calls"))
    found: dict[str, int] = {}
    for tool in items(doc.get("tools")):
        kind = text(at(tool, "type")) or ""
        if SEARCHES.fullmatch(kind):
            found[_search(kind, doc)] = _count(at(tool, "parameters", "max_uses")) or most
        elif kind == "file_search":
            found["storage_searches"] = most
        elif kind == "code_interpreter":
            found["containers"] = found.get("containers", 0) + gigabytes(tool)
    if op.name == "chat" and ("web_search_options" in doc or is_searching(text(doc.get("model")))):
        found["searches"] = 1  # each call of these models searches (OpenAI, Web search in Chat Completions)
    return tuple(found.items())


def pixels(doc: Json) -> int:
    """Of an image to be made, by its `size` ("1024x1536"); 0 for auto."""
    size = SIZE.fullmatch(text(doc.get("size")) or "")
    return int(size[1]) * int(size[2]) if size else 0


def added(doc: Json) -> int:
    """Tokens that the provider puts in front where there are tools."""
    if not doc.get("tools"):
        return 0
    return CLAUDES if "claude" in (text(doc.get("model")) or "") else ADDED


def reads_more(doc: Json) -> bool:
    """Does the model read what is not in this body?"""
    is_told = isinstance(doc.get("prompt"), dict) or any(doc.get(name) is not None for name in MORE)
    return is_told or reads_stored(doc) or any((text(at(tool, "type")) or "function") not in OWN for tool in items(doc.get("tools")))


def reads_stored(doc: Json) -> bool:
    """Does it name a stored conversation, or a stored item of one? Such an item needs no type, only its id."""
    entries = (entry for entry in items(doc.get("input")) if isinstance(entry, dict) and "content" not in entry)
    is_item = any((text(entry.get("type")) or "item_reference") == "item_reference" and entry.get("id") for entry in entries)
    return is_item or any(doc.get(name) is not None for name in TALKS)


def is_searching(model: str | None) -> bool:
    """gpt-4o-search-preview, gpt-5-search-api: they search on every call."""
    return model is not None and SEARCHING in model


def gigabytes(tool: object) -> int:
    """Of one container; also as a response repeats the tool."""
    return GIGABYTES.get(text(at(tool, "container", "memory_limit")) or "1g", 64)


def tools_used(op: Operation, doc: Json) -> dict[str, int]:
    """The same units as one whole response tells them: its output lists every call of a tool."""
    found = _listed(doc) if "output" in doc else {}
    if op.name == "chat" and is_searching(text(doc.get("model"))) and mapping(doc.get("usage")):
        found["searches"] = 1
    return found


def _listed(doc: Json) -> dict[str, int]:
    found: dict[str, int] = {}
    containers = set()
    kinds = [text(at(tool, "type")) or "" for tool in items(doc.get("tools"))]
    search = next((_search(kind, doc) for kind in kinds if SEARCHES.fullmatch(kind)), "searches")
    for entry in items(doc.get("output")):
        match at(entry, "type"):
            case "web_search_call" if (at(entry, "action", "type") or "search") == "search":  # opening a page costs nothing
                found[search] = found.get(search, 0) + 1
            case "file_search_call":
                found["storage_searches"] = found.get("storage_searches", 0) + 1
            case "code_interpreter_call":
                containers.add(text(at(entry, "container_id")) or "")
    if containers:
        sizes = [gigabytes(tool) for tool in items(doc.get("tools")) if at(tool, "type") == "code_interpreter"]
        found["containers"] = len(containers) * max(sizes, default=1)
    return found


def _search(kind: str, doc: Json) -> str:
    """The unit of a search: the preview of the tool has a price of its own on models that do not reason."""
    is_dearer = "_preview" in kind and (text(doc.get("model")) or "").startswith(("gpt-4o", "gpt-4.1"))
    return "preview_searches" if is_dearer else "searches"


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
