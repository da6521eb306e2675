"""Where OpenAI bodies and events hold text. Says where, never what; identifiers, names and numbers are no text."""

from __future__ import annotations

from functools import lru_cache

from proxy.dialect.fields import at, index_of, items, label, mapping, text, texts_at
from proxy.dialect.wire import NOTHING_SAID, Json, Operation, Path, Said

PARTS = ("text", "refusal", "thinking", "thinking.*.text")
TOOLS = ("tools.**.description", "functions.**.description")
SPEECH = ("reasoning_content", "reasoning", "reasoning_details.*.text", "reasoning_details.*.summary", "refusal",
          "tool_calls.*.function.arguments!json", "tool_calls.*.custom.input", "function_call.arguments!json")  # fmt: skip
MESSAGE = ("content", *(f"content.*.{part}" for part in PARTS), "prefix", *SPEECH)
CONVERSATION = tuple(f"messages.*.{place}" for place in MESSAGE)
ITEM = ("content", "content.*.text", "content.*.refusal", "content.*.transcript", "summary.*.text", "arguments!json", "input", "code",
        "output", "output.*.text", "output.*.stdout", "output.*.stderr", "outputs.*.logs", "results.*.text", "queries.*",
        "action.query", "action.queries.*", "action.text", "action.command.*", "action.commands.*", "operation.diff", "error")  # fmt: skip
PROMPT = ("prompt.variables.*", "prompt.variables.*.text")

SURFACES: dict[str, tuple[str, ...]] = {
    "chat": (*CONVERSATION, *TOOLS, "prediction.content", "prediction.content.*.text", "response_format.**.description"),
    "responses": ("instructions", "input", *(f"input.*.{place}" for place in ITEM), *PROMPT, *TOOLS, "tools.*.server_description",
                  "text.format.**.description"),
    "completions": ("prompt", "prompt.*", "suffix"),
    "embeddings": ("input", "input.*", "input.text", "input.*.text", "input.*.content.*.text"),
    "moderations": ("input", "input.*", "input.*.text", "input.*.content", "input.*.*.content"),
    "rerank": ("query", "query.text", "documents.**"),
    "images": ("prompt",),
    "speech": ("input", "instructions"),
    "assistants": ("instructions", "description", "additional_instructions", "content", "content.*.text",
                   *(f"{root}{place}" for root in ("messages.*.", "additional_messages.*.", "thread.messages.*.")
                     for place in ("content", "content.*.text")), "tool_outputs.*.output", *TOOLS),
}  # fmt: skip
SURFACES["compact"] = SURFACES["responses"]

ECHO = ("instructions", *TOOLS)  # a response repeats what it was asked
ANSWERS: dict[str, tuple[str, ...]] = {
    "chat": tuple(f"choices.*.message.{place}" for place in (*MESSAGE, "audio.transcript")),
    "completions": ("choices.*.text",),
    "responses": (*(f"output.*.{place}" for place in ITEM), *ECHO),
    "images": ("data.*.revised_prompt",),
    "audio": ("text",),
    "rerank": ("results.*.document", "results.*.document.text"),
}
ANSWERS["compact"] = ANSWERS["responses"]

MANY_TOOLS = 128  # tool calls of one message, as the API limits them
PLAIN = {"content": "content", "reasoning_content": "thought", "reasoning": "thought", "refusal": "refusal"}  # field → channel
NESTED = ("content", "tool_calls", "reasoning_details", "audio", "function_call")
PIECES = ("text", "refusal", "arguments", "input", "code", "transcript")
ENDS_ALL = ("response.completed", "response.incomplete", "response.failed")


def key_of(op: Operation) -> str:
    return op.variant or op.name


def said_of(op: Operation, event: Json) -> Said:
    if "choices" in event:
        return _chat_said(event)
    kind = event.get("type")
    if isinstance(kind, str) and kind.startswith("response."):
        return _response_said(kind, event)
    return NOTHING_SAID


def _chat_said(event: Json) -> Said:
    choices = items(event.get("choices"))
    if len(choices) == 1 and (index := _index_of_content(choices[0])) is not None:
        return _content_said(index)
    deltas: list[tuple[str, Path, bool]] = []
    ends: list[str] = []
    for place, choice in enumerate(choices):
        index, root = index_of(choice, place), ("choices", place)
        if isinstance(at(choice, "text"), str):
            deltas.append((f"{index}.text", (*root, "text"), False))
        spoken = _spoken(index, mapping(at(choice, "delta")), (*root, "delta"))
        deltas += spoken
        if isinstance(at(choice, "finish_reason"), str):
            ends += _channels(index)
        elif any(channel.startswith((f"{index}.content", f"{index}.tool")) for channel, _, _ in spoken):
            ends += (f"{index}.thought", f"{index}.details")  # the thinking is over once the answer begins
    return Said(deltas=tuple(deltas), ends=tuple(ends)) if deltas or ends else NOTHING_SAID


def _index_of_content(choice: object) -> int | None:
    """Of a choice that brings a piece of the answer's text and nothing else, as most do; None for any other."""
    if not isinstance(choice, dict) or choice.get("finish_reason") is not None or "text" in choice:
        return None
    delta, index = choice.get("delta"), choice.get("index", 0)
    if not isinstance(delta, dict) or not delta.get("content") or type(index) is not int:
        return None
    for name, value in delta.items():
        if value is not None and name != "role" and (name != "content" or not isinstance(value, str)):
            return None
    return index


@lru_cache(maxsize=64)
def _content_said(index: int) -> Said:
    delta = (f"{index}.content", ("choices", 0, "delta", "content"), False)
    return Said(deltas=(delta,), ends=(f"{index}.thought", f"{index}.details"))  # the thinking is over once the answer begins


@lru_cache(maxsize=64)
def _channels(index: int) -> tuple[str, ...]:
    names = ("content", "thought", "details", "refusal", "transcript", "call", "text")
    return (*(f"{index}.{name}" for name in names), *(f"{index}.tool.{n}" for n in range(MANY_TOOLS)))


def _spoken(index: int, delta: Json, root: Path) -> list[tuple[str, Path, bool]]:
    """The pieces in one delta; empty strings (role-only chunks) are none."""
    found: list[tuple[str, Path, bool]] = []
    for name, value in delta.items():
        if isinstance(value, str):
            if value and name in PLAIN:
                found.append((f"{index}.{PLAIN[name]}", (*root, name), False))
        elif value is not None:
            nested = _nested(delta)[name] if name in NESTED else ()
            found += [(f"{index}.{channel}", (*root, *path), is_json) for channel, path, is_json in nested if text(at(delta, *path))]
    return found


def _nested(delta: Json) -> dict[str, list[tuple[str, Path, bool]]]:
    """Where a delta may hold text below its first level."""
    parts: list[tuple[str, Path, bool]] = []  # Mistral's
    for n, part in enumerate(items(delta.get("content"))):
        parts.append(("content", ("content", n, "text"), False))
        parts += [("thought", ("content", n, "thinking", k, "text"), False) for k in range(len(items(at(part, "thinking"))))]
    calls: list[tuple[str, Path, bool]] = []
    for n, call in enumerate(items(delta.get("tool_calls"))):
        channel = f"tool.{index_of(call, n)}"
        calls.append((channel, ("tool_calls", n, "function", "arguments"), True))
        calls.append((channel, ("tool_calls", n, "custom", "input"), False))
    details = range(len(items(delta.get("reasoning_details"))))
    return {
        "content": parts,
        "tool_calls": calls,
        "reasoning_details": [("details", ("reasoning_details", n, name), False) for n in details for name in ("text", "summary")],
        "audio": [("transcript", ("audio", "transcript"), False)],
        "function_call": [("call", ("function_call", "arguments"), True)],
    }


def _response_said(kind: str, event: Json) -> Said:
    stem, _, last = kind.rpartition(".")
    if last == "delta":
        is_text = isinstance(event.get("delta"), str) and not stem.endswith((".audio", ".output_audio"))  # those are base64
        return Said(deltas=((_channel(stem, event), ("delta",), "arguments" in stem),)) if is_text else NOTHING_SAID
    if isinstance(event.get("response"), dict):
        wholes = texts_at(ANSWERS["responses"], event["response"], ("response",))
        return Said(wholes=wholes, ends=("*",) if kind in ENDS_ALL else ())
    wholes = (
        *texts_at(tuple(f"{p}!json" if p == "arguments" else p for p in PIECES), event),
        *texts_at(PIECES, event.get("part"), ("part",)),
        *texts_at(ITEM, event.get("item"), ("item",)),
    )
    return Said(wholes=wholes, ends=(_channel(stem, event),) if last == "done" else ())


def _channel(stem: str, event: Json) -> str:
    return ":".join((stem, *(label(event.get(name)) for name in ("item_id", "output_index", "content_index", "summary_index"))))
