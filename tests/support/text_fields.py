"""A canary in each text field of each operation of each dialect: target → what the field is → the body. Knows nothing of Sluice."""

from __future__ import annotations

import json

CANARY = "zq.canary@corp.test"
ARGS = json.dumps({"to": CANARY, "n": 1})  # JSON inside a string

TOOL = {"type": "function", "function": {"name": "f", "description": CANARY, "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"to": {"type": "object", "properties": {"x": {"type": "string", "description": CANARY}}}}}
DEEP_TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
CALLS = [{"id": "t", "type": "function", "function": {"name": "f", "arguments": ARGS}}]
CALLED = {"role": "assistant", "content": None, "tool_calls": CALLS}


def chat(*messages: dict, **more: object) -> dict:
    return {"model": "gpt-4o", "messages": [*messages, {"role": "user", "content": "go"}], **more}


CHAT = {
    **{f"{role} message": chat({"role": role, "content": CANARY}) for role in ("system", "developer", "user", "assistant")},
    **{f"{role} part": chat({"role": role, "content": [{"type": "text", "text": CANARY}]}) for role in ("system", "user", "assistant")},
    "tool result": chat(CALLED, {"role": "tool", "tool_call_id": "t", "content": CANARY}),
    "tool result part": chat({"role": "tool", "tool_call_id": "t", "content": [{"type": "text", "text": CANARY}]}),
    "arguments of a tool call": chat(CALLED),
    "tool description": chat(tools=[TOOL]),
    "description of a nested parameter": chat(tools=[DEEP_TOOL]),
    "arguments of a function call": chat({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ARGS}}),
    "input of a custom tool": chat(
        {"role": "assistant", "content": None, "tool_calls": [{"id": "t", "type": "custom", "custom": {"name": "f", "input": CANARY}}]}
    ),
    "refusal": chat({"role": "assistant", "content": None, "refusal": CANARY}),
    "prediction": chat(prediction={"type": "content", "content": CANARY}),
    "description in a schema of the answer": chat(
        response_format={"type": "json_schema", "json_schema": {"name": "s", "description": CANARY, "schema": {"type": "object"}}}
    ),
}


def responses(*items: dict, **more: object) -> dict:
    return {"model": "gpt-4o", "input": [*items, {"role": "user", "content": "go"}], **more}


RESPONSES = {
    "input": {"model": "gpt-4o", "input": CANARY},
    "instructions": responses(instructions=CANARY),
    **{f"{role} message": responses({"role": role, "content": CANARY}) for role in ("system", "developer", "user")},
    "input part": responses({"role": "user", "content": [{"type": "input_text", "text": CANARY}]}),
    "output part of the history": responses({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": CANARY}]}),
    "arguments of a function call": responses({"type": "function_call", "call_id": "t", "name": "f", "arguments": ARGS}),
    "function result": responses({"type": "function_call_output", "call_id": "t", "output": CANARY}),
    "function result that is JSON": responses({"type": "function_call_output", "call_id": "t", "output": ARGS}),
    "function result part": responses({"type": "function_call_output", "call_id": "t", "output": [{"type": "input_text", "text": CANARY}]}),
    "custom tool input": responses({"type": "custom_tool_call", "call_id": "t", "name": "f", "input": CANARY}),
    "reasoning summary": responses({"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": CANARY}]}),
    "tool description": responses(tools=[{"type": "function", "name": "f", "description": CANARY, "parameters": {}}]),
    "prompt variable": responses(prompt={"id": "p", "variables": {"who": CANARY}}),
}
BLOCKS = {
    "text": {"type": "text", "text": CANARY},
    "tool result": {"type": "tool_result", "tool_use_id": "t", "content": CANARY},
    "tool result part": {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": CANARY}]},
    "document": {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": CANARY}},
    "document title": {"type": "document", "title": CANARY, "context": "c", "source": {"type": "url", "url": "https://x"}},
    "document context": {"type": "document", "title": "t", "context": CANARY, "source": {"type": "url", "url": "https://x"}},
    "search result": {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": CANARY}]},
}
BLOCKS["document of a tool result"] = {"type": "tool_result", "tool_use_id": "t", "content": [BLOCKS["document"]]}


def messages(*said: dict, **more: object) -> dict:
    return {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [*said, {"role": "user", "content": "go"}], **more}


MESSAGES = {
    "system": messages(system=CANARY),
    "system part": messages(system=[{"type": "text", "text": CANARY}]),
    "user message": messages({"role": "user", "content": CANARY}),
    "assistant message": messages({"role": "assistant", "content": CANARY}),
    **{f"{name} block": messages({"role": "user", "content": [block]}) for name, block in BLOCKS.items()},
    "tool use": messages({"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": {"b": [CANARY]}}}]}),
    "thinking": messages({"role": "assistant", "content": [{"type": "thinking", "thinking": CANARY, "signature": "s"}]}),
    "tool description": messages(tools=[{"name": "f", "description": CANARY, "input_schema": {"type": "object"}}]),
    "description of a parameter": messages(
        tools=[{"name": "f", "input_schema": {"type": "object", "properties": {"x": {"description": CANARY}}}}]
    ),
}


def generate(*parts: dict, **more: object) -> dict:
    return {"contents": [{"role": "user", "parts": [*parts, {"text": "go"}]}], **more}


GENERATE = {
    "text": generate({"text": CANARY}),
    "text of the model": {"contents": [{"role": "model", "parts": [{"text": CANARY}]}, {"role": "user", "parts": [{"text": "go"}]}]},
    "one content without a list": {"contents": {"parts": {"text": CANARY}}},
    "systemInstruction": generate(systemInstruction={"parts": [{"text": CANARY}]}),
    "system_instruction": generate(system_instruction={"parts": [{"text": CANARY}]}),
    "function call": generate({"functionCall": {"name": "f", "args": {"a": [{"b": CANARY}]}}}),
    "function response": generate({"functionResponse": {"name": "f", "response": {"result": {"x": CANARY}}}}),
    "code": generate({"executableCode": {"language": "PYTHON", "code": CANARY}}),
    "code result": generate({"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": CANARY}}),
    "tool description": generate(tools=[{"functionDeclarations": [{"name": "f", "description": CANARY}]}]),
    "description in a schema": generate(generationConfig={"responseSchema": {"type": "OBJECT", "description": CANARY}}),
}


def cohere(*said: dict, **more: object) -> dict:
    return {"model": "command-a-03-2025", "messages": [*said, {"role": "user", "content": "go"}], **more}


COHERE_2 = {
    **{f"{role} message": cohere({"role": role, "content": CANARY}) for role in ("system", "user", "assistant")},
    "part": cohere({"role": "user", "content": [{"type": "text", "text": CANARY}]}),
    "tool result": cohere({"role": "tool", "tool_call_id": "t", "content": CANARY}),
    "tool result document": cohere({"role": "tool", "tool_call_id": "t", "content": [{"type": "document", "document": {"data": CANARY}}]}),
    "document": cohere(documents=[CANARY]),
    "document data": cohere(documents=[{"id": "1", "data": {"text": CANARY}}]),
    "arguments of a tool call": cohere({"role": "assistant", "tool_plan": "p", "tool_calls": CALLS}),
    "tool plan": cohere({"role": "assistant", "tool_plan": CANARY, "tool_calls": []}),
    "tool description": cohere(tools=[TOOL]),
}


def cohere_1(**more: object) -> dict:
    return {"model": "command-r", "message": "go", **more}


COHERE_1 = {
    "message": cohere_1(message=CANARY),
    "preamble": cohere_1(preamble=CANARY),
    "history": cohere_1(chat_history=[{"role": "USER", "message": CANARY}]),
    "tool call of the history": cohere_1(chat_history=[{"role": "CHATBOT", "tool_calls": [{"name": "f", "parameters": {"a": CANARY}}]}]),
    "tool result": cohere_1(tool_results=[{"call": {"name": "f", "parameters": {}}, "outputs": [{"r": {"x": CANARY}}]}]),
    "parameters of a tool result": cohere_1(tool_results=[{"call": {"name": "f", "parameters": {"q": CANARY}}, "outputs": []}]),
    "document": cohere_1(documents=[{"title": "t", "snippet": CANARY}]),
    "tool description": cohere_1(tools=[{"name": "f", "description": CANARY, "parameter_definitions": {}}]),
    "description of a parameter": cohere_1(tools=[{"name": "f", "parameter_definitions": {"x": {"description": CANARY, "type": "str"}}}]),
}
OTHERS = {
    "/openai/v1/completions": {
        "prompt": {"prompt": CANARY}, "prompts": {"prompt": ["a", CANARY]}, "suffix": {"prompt": "a", "suffix": CANARY},
    },
    "/openai/v1/embeddings": {"input": {"input": CANARY}, "inputs": {"input": ["a", CANARY]}},
    "/gemini/v1beta/models/text-embedding-004:embedContent": {"content": {"content": {"parts": [{"text": CANARY}]}}},
    "/gemini/v1beta/models/text-embedding-004:batchEmbedContents": {
        "requests": {"requests": [{"model": "models/m", "content": {"parts": [{"text": CANARY}]}}]},
    },
    "/gemini/v1beta/models/gemini-2.5-flash:countTokens": {"contents": generate({"text": CANARY})},
    "/anthropic/v1/messages/count_tokens": {"message": messages({"role": "user", "content": CANARY})},
    "/cohere/v1/generate": {"prompt": {"prompt": CANARY}},
    "/cohere/v2/embed": {"texts": {"texts": ["a", CANARY]}, "content": {"inputs": [{"content": [{"type": "text", "text": CANARY}]}]}},
    "/cohere/v2/rerank": {
        "query": {"query": CANARY, "documents": ["a"]}, "documents": {"query": "q", "documents": ["a", {"text": CANARY}]},
    },
    "/openai/v1/moderations": {"input": {"input": CANARY}},
    "/openai/v1/images/generations": {"prompt": {"prompt": CANARY}},
    "/openai/v1/audio/speech": {"input": {"input": CANARY, "voice": "alloy"}, "instructions": {"input": "a", "instructions": CANARY}},
    "/openai/v1/a/new/endpoint": {"any string": {"who": {"knows": [CANARY]}}},
}  # fmt: skip
TABLE = {
    "/openai/v1/chat/completions": CHAT,
    "/mistral/v1/chat/completions": {"message": CHAT["user message"]},
    "/azure/openai/deployments/gpt-4o/chat/completions?api-version=1": {"message": CHAT["user message"]},
    "/gemini/v1beta/openai/chat/completions": {"message": CHAT["user message"]},
    "/openai/v1/responses": RESPONSES,
    "/openai/v1/responses/compact": {"input": RESPONSES["input"]},
    "/anthropic/v1/messages": MESSAGES,
    "/gemini/v1beta/models/gemini-2.5-flash:generateContent": GENERATE,
    "/vertex/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-flash:generateContent": {"text": GENERATE["text"]},
    "/cohere/v2/chat": COHERE_2,
    "/cohere/v1/chat": COHERE_1,
    **OTHERS,
}
