"""What a JSON frame of a realtime WebSocket says: OpenAI Realtime and Gemini Live. Holds no session and bridges nothing."""

from __future__ import annotations

from urllib.parse import parse_qs

from proxy.dialect.fields import at, mapping, text
from proxy.dialect.gemini_usage import read_usage as gemini_usage
from proxy.dialect.openai_usage import read_usage as openai_usage
from proxy.dialect.wire import Json, Operation
from proxy.exchange import Usage

REALTIME = Operation("realtime")
STARTS = ("response.create", "response.created")  # asked for by the client; begun by the server's voice detection
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"


def starts_response(event: Json) -> bool:
    """A turn begins: the client asks for it, or the server says so. Both come for one turn where the client asked.

    Gemini Live: the client's own content; a turn that voice begins shows first in the server's `serverContent`.
    """
    return event.get("type") in STARTS or "clientContent" in event or "client_content" in event or "serverContent" in event


def asks_response(event: Json) -> bool:
    """The client asks for one more response, whatever else is under way."""
    return event.get("type") == "response.create"


def is_done(event: Json) -> bool:
    return event.get("type") == "response.done" or at(event, "serverContent", "turnComplete") is True


def is_transcribed(event: Json) -> bool:
    return event.get("type") == TRANSCRIBED


def transcriber_of(event: Json) -> str | None:
    """The model that a session lets write down what it hears, as its frames name it; in the beta's place too."""
    session = event.get("session")
    return text(at(session, "audio", "input", "transcription", "model")) or text(at(session, "input_audio_transcription", "model"))


def response_id(event: Json) -> str | None:
    return text(at(event, "response", "id")) or text(event.get("response_id"))


def usage_of(event: Json) -> Usage | None:
    """The final usage of a turn, or of a transcription (billed apart); None where the frame carries none."""
    if event.get("type") == "response.done":
        response = mapping(event.get("response"))
        return openai_usage(REALTIME, mapping(response.get("usage")), response)
    if is_transcribed(event):
        return openai_usage(REALTIME, mapping(event.get("usage")), event)
    return gemini_usage(REALTIME, event) if "usageMetadata" in event else None


def names_models(query: str) -> int:
    """How many times a query names a model: providers differ in which they take."""
    asked = parse_qs(query)
    return sum(len(asked.get(name, ())) for name in ("model", "deployment"))


def is_refused(event: Json) -> bool:
    """The server will not do what a frame of the client asked for."""
    return event.get("type") == "error"


def model_of(path: str, query: str, event: Json | None = None) -> str | None:
    """From the query (OpenAI `model`, Azure `deployment`), or from a session or setup frame; Gemini names it there alone."""
    asked = parse_qs(query)
    named = next((asked[name][0] for name in ("model", "deployment") if name in asked), None)
    if named is None and event is not None:
        named = text(at(event, "session", "model")) or text(at(event, "setup", "model"))
    return named.rpartition("/")[2] if named else None
