"""The canary table: of every operation's full-featured body, exactly the text reaches the guard. Text begins with `T:`."""

import pytest

from proxy.dialect import dialect_of

SCHEMA = {
    "type": "object",
    "description": "T:schema",
    "properties": {"city": {"type": "string", "description": "T:property", "enum": ["a"]}, "inner": {"items": {"description": "T:deep"}}},
}
OPENAI_TOOLS = [
    {"type": "function", "function": {"name": "find", "description": "T:tool", "parameters": SCHEMA}},
    {"type": "custom", "custom": {"name": "own", "description": "T:custom tool"}},
]
ARGUMENTS = '{"to": "T:argument", "n": 3, "list": [{"x": "T:nested argument"}]}'
IMAGE = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}

CHAT = {
    "model": "gpt-4o",
    "stop": ["END"],
    "user": "u1",
    "metadata": {"k": "v"},
    "messages": [
        {"role": "system", "name": "sys", "content": "T:system"},
        {"role": "developer", "content": [{"type": "text", "text": "T:developer"}]},
        {"role": "user", "content": [{"type": "text", "text": "T:user"}, IMAGE]},
        {
            "role": "assistant", "content": None, "refusal": "T:refusal", "reasoning_content": "T:reasoning", "reasoning": "T:thinking",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "find", "arguments": ARGUMENTS}},
                {"id": "c2", "type": "custom", "custom": {"name": "own", "input": "T:custom input"}},
            ],
        },
        {"role": "assistant", "function_call": {"name": "old", "arguments": '{"q": "T:legacy argument"}'}},
        {"role": "tool", "tool_call_id": "c1", "content": "T:result"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "T:result part"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "T:refused part"}, {"type": "thinking",
            "thinking": [{"type": "text", "text": "T:mistral"}]}]},
    ],
    "tools": OPENAI_TOOLS,
    "functions": [{"name": "old", "description": "T:function", "parameters": {"properties": {"q": {"description": "T:old property"}}}}],
    "prediction": {"type": "content", "content": [{"type": "text", "text": "T:prediction"}]},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "description": "T:format", "schema": SCHEMA}},
}  # fmt: skip
RESPONSES = {
    "model": "gpt-5",
    "instructions": "T:instructions",
    "previous_response_id": "resp_1",
    "input": [
        {"role": "user", "content": "T:plain"},
        {"type": "message", "role": "user", "id": "m1", "content": [{"type": "input_text", "text": "T:part"}, {"type": "input_image",
            "image_url": "data:x"}]},
        {"type": "reasoning", "id": "r1", "summary": [{"type": "summary_text", "text": "T:summary"}], "encrypted_content": "gAAA"},
        {"type": "function_call", "call_id": "c1", "name": "find", "arguments": ARGUMENTS},
        {"type": "function_call_output", "call_id": "c1", "output": "T:output"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "T:output part"}]},
        {"type": "custom_tool_call", "name": "own", "input": "T:custom input"},
        {"type": "code_interpreter_call", "code": "T:code", "outputs": [{"type": "logs", "logs": "T:logs"}]},
        {"type": "web_search_call", "action": {"type": "search", "query": "T:query"}},
        {"type": "mcp_call", "server_label": "s", "arguments": '{"q": "T:mcp argument"}', "output": "T:mcp output", "error": "T:mcp error"},
        {"type": "file_search_call", "queries": ["T:file query"], "results": [{"file_id": "f", "text": "T:found"}]},
    ],
    "prompt": {"id": "pmpt_1", "variables": {"name": "T:variable", "long": {"type": "input_text", "text": "T:long variable"}}},
    "tools": [{"type": "function", "name": "find", "description": "T:tool", "parameters": SCHEMA}, {"type": "mcp",
        "server_description": "T:server"}],
    "text": {"format": {"type": "json_schema", "name": "n", "description": "T:format", "schema": SCHEMA}},
}  # fmt: skip
MESSAGES = {
    "model": "claude-sonnet-4-5",
    "system": [{"type": "text", "text": "T:system", "cache_control": {"type": "ephemeral"}}],
    "metadata": {"user_id": "u1"},
    "stop_sequences": ["END"],
    "messages": [
        {"role": "user", "content": "T:plain"},
        {"role": "user", "content": [
            {"type": "text", "text": "T:part"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGkh" * 20}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "T:plain document"}},
            {"type": "document", "title": "T:title", "context": "T:context", "source": {"type": "content", "content": [{"type": "text",
                "text": "T:document"}]}},
            {"type": "search_result", "source": "https://x.example", "title": "T:found title", "content": [{"type": "text",
                "text": "T:found"}]},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "T:thinking", "signature": "sig"},
            {"type": "text", "text": "T:said", "citations": [{"type": "char_location", "cited_text": "T:cited"}]},
            {"type": "tool_use", "id": "t1", "name": "find", "input": {"to": "T:input", "deep": [{"x": "T:deep input"}], "n": 1}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "T:result"},
            {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "T:result part"}]},
            {"type": "code_execution_tool_result", "content": {"type": "code_execution_result", "stdout": "T:stdout",
                "stderr": "T:stderr"}},
        ]},
    ],
    "tools": [{"name": "find", "description": "T:tool", "input_schema": SCHEMA}],
}  # fmt: skip
GENERATE = {
    "systemInstruction": {"parts": [{"text": "T:system"}]},
    "contents": [
        {"role": "user", "parts": [{"text": "T:user"}, {"inlineData": {"mimeType": "image/png", "data": "aGk="}}]},
        {"role": "model", "parts": [{"functionCall": {"name": "find", "args": {"to": "T:arg", "deep": [{"x": "T:deep arg"}]}},
            "thoughtSignature": "sig"}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "find", "response": {"result": "T:response"}}}]},
        {"role": "model", "parts": [{"executableCode": {"language": "PYTHON", "code": "T:code"}},
            {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "T:output"}}]},
    ],
    "tools": [{"functionDeclarations": [{"name": "find", "description": "T:tool", "parameters": SCHEMA}]}],
    "generationConfig": {"responseMimeType": "application/json", "responseSchema": SCHEMA},
    "cachedContent": "cachedContents/1",
}  # fmt: skip
SNAKE = {
    "system_instruction": {"parts": {"text": "T:system"}},
    "contents": {"role": "user", "parts": {"text": "T:single"}},
    "tools": [{"function_declarations": [{"name": "find", "description": "T:tool"}]}],
    "generation_config": {"response_schema": SCHEMA},
}
COHERE_V2 = {
    "model": "command-a",
    "messages": [
        {"role": "system", "content": "T:system"},
        {"role": "user", "content": [{"type": "text", "text": "T:user"}, {"type": "image_url", "image_url": {"url": "data:x"}}]},
        {
            "role": "assistant",
            "tool_plan": "T:plan",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "document", "document": {"data": {"answer": "T:result"}}}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "T:thinking"}], "citations": [{"text": "T:cited", "start": 0}]},
    ],
    "documents": ["T:document", {"id": "d1", "data": {"snippet": "T:snippet"}}, {"id": "d2", "data": "T:data"}],
    "tools": OPENAI_TOOLS,
}
COHERE_V1 = {
    "model": "command-r",
    "message": "T:message",
    "preamble": "T:preamble",
    "chat_history": [
        {"role": "USER", "message": "T:history"},
        {"role": "CHATBOT", "message": "T:answered", "tool_calls": [{"name": "f", "parameters": {"q": "T:parameter"}}]},
        {"role": "TOOL", "tool_results": [{"call": {"name": "f", "parameters": {"q": "T:asked"}}, "outputs": [{"a": "T:old output"}]}]},
    ],
    "documents": [{"title": "T:title", "snippet": "T:snippet"}],
    "tool_results": [{"call": {"name": "f", "parameters": {"q": "T:called"}}, "outputs": [{"a": "T:output"}]}],
    "tools": [{"name": "f", "description": "T:tool", "parameter_definitions": {"q": {"description": "T:definition", "type": "str"}}}],
}
ASSISTANT = {
    "assistant_id": "asst_1",
    "instructions": "T:instructions",
    "additional_instructions": "T:more",
    "additional_messages": [{"role": "user", "content": "T:added"}],
    "thread": {"messages": [{"role": "user", "content": [{"type": "text", "text": "T:thread"}]}]},
    "tools": OPENAI_TOOLS,
}
MODEL, V1 = "/v1beta/models/gemini-2.5-flash", "/v1beta1/projects/p/locations/l/publishers/google/models"

ASKED = [
    ("openai", "/v1/chat/completions", CHAT),
    ("openai", "/chat/completions", {"messages": [{"role": "user", "content": "T:x"}], "prediction": {"content": "T:prediction"}}),
    ("openai", "/v1/responses", RESPONSES),
    ("openai", "/v1/responses/compact", RESPONSES),
    ("openai", "/v1/responses/input_tokens", RESPONSES),
    ("openai", "/v1/responses", {"input": "T:plain", "model": "gpt-5"}),
    ("openai", "/v1/completions", {"prompt": "T:prompt", "suffix": "T:suffix", "model": "m", "stop": "END"}),
    ("openai", "/v1/completions", {"prompt": ["T:one", "T:two"]}),
    ("openai", "/v1/completions", {"prompt": [[1, 2], [3]]}),
    ("openai", "/v1/embeddings", {"input": ["T:one", "T:two"], "model": "e", "encoding_format": "float"}),
    ("openai", "/v1/embeddings", {"input": "T:one"}),
    ("openai", "/v1/embeddings", {"input": [1, 2, 3]}),
    ("openai", "/v1/moderations", {"input": [{"type": "text", "text": "T:one"}, IMAGE]}),
    ("openai", "/v1/moderations", {"input": "T:one"}),
    ("openai", "/v1/rerank", {"query": "T:query", "documents": ["T:one", {"text": "T:two"}], "model": "r"}),
    ("openai", "/v1/images/generations", {"prompt": "T:prompt", "size": "1024x1024"}),
    ("openai", "/v1/audio/speech", {"input": "T:input", "instructions": "T:tone", "voice": "alloy"}),
    ("openai", "/v1/threads/runs", ASSISTANT),
    ("openai", "/v1/threads/t/runs/r/submit_tool_outputs", {"tool_outputs": [{"tool_call_id": "c", "output": "T:output"}]}),
    ("openai", "/v1/threads/t/messages", {"role": "user", "content": "T:message"}),
    ("azure-openai", "/openai/deployments/d/chat/completions", CHAT),
    ("anthropic", "/v1/messages", MESSAGES),
    ("anthropic", "/v1/messages", {"system": "T:system", "messages": []}),
    ("anthropic", "/v1/messages/count_tokens", MESSAGES),
    ("anthropic", "/v1/messages/batches", {"requests": [{"custom_id": "1", "params": MESSAGES}]}),
    ("anthropic", "/v1/complete", {"prompt": "T:prompt", "model": "claude-2.1"}),
    ("gemini", f"{MODEL}:generateContent", GENERATE),
    ("gemini", f"{MODEL}:streamGenerateContent", SNAKE),
    ("gemini", f"{MODEL}:countTokens", {"generateContentRequest": {"model": "m", **GENERATE}}),
    ("gemini", f"{MODEL}:embedContent", {"model": "m", "content": {"parts": [{"text": "T:one"}]}, "title": "T:title"}),
    ("gemini", f"{MODEL}:batchEmbedContents", {"requests": [{"model": "m", "content": {"parts": [{"text": "T:one"}]}}]}),
    ("gemini", "/v1beta/openai/chat/completions", CHAT),
    ("gemini", "/v1beta/cachedContents", {"model": "models/m", "ttl": "300s", "contents": GENERATE["contents"]}),
    ("vertex", f"{V1}/gemini-2.5-flash:generateContent", GENERATE),
    ("vertex", f"{V1}/text-embedding-005:predict", {"instances": [{"content": "T:one", "title": "T:title", "task_type": "X"}]}),
    ("vertex", f"{V1}/imagen-4:predict", {"instances": [{"prompt": "T:prompt"}], "parameters": {"sampleCount": 2}}),
    ("cohere", "/v2/chat", COHERE_V2),
    ("cohere", "/v1/chat", COHERE_V1),
    ("cohere", "/v1/generate", {"prompt": "T:prompt", "model": "command"}),
    ("cohere", "/v2/embed", {"texts": ["T:one"], "inputs": [{"content": [{"type": "text", "text": "T:two"}]}], "input_type": "search"}),
    ("cohere", "/v2/rerank", {"query": "T:query", "documents": ["T:one", {"text": "T:two"}], "model": "r"}),
    ("cohere", "/v1/tokenize", {"text": "T:text", "model": "command"}),
    ("cohere", "/v1/classify", {"inputs": ["T:one"], "examples": [{"text": "T:two", "label": "spam"}]}),
]


@pytest.mark.parametrize(("dialect", "path", "body"), ASKED, ids=lambda value: value if isinstance(value, str) else "")
def test_exactly_the_text_of_a_request_is_its_surface(dialect, path, body, reached, canaries):
    spoken = dialect_of(dialect)
    op = spoken.operation("POST", path, "")
    assert op.body == "json"
    assert reached(spoken.surface(op), body) == canaries(body)


CHAT_ANSWER = {
    "id": "chatcmpl-1",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {
            "role": "assistant", "content": "T:said", "refusal": "T:refused", "reasoning_content": "T:thought",
            "audio": {"id": "a", "data": "aGk=", "transcript": "T:spoken"},
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}],
        }},
        {"index": 1, "message": {"content": [{"type": "text", "text": "T:part"}]}},
    ],
}  # fmt: skip
ANSWERED = [
    ("openai", "/v1/chat/completions", CHAT_ANSWER),
    ("openai", "/v1/completions", {"id": "cmpl-1", "choices": [{"text": "T:said", "index": 0}]}),
    ("openai", "/v1/responses", {
        "id": "resp_1", "instructions": "T:echo", "model": "gpt-5", "tools": [{"name": "f", "description": "T:tool echo"}],
        "output": [
            {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "T:said", "annotations": []}]},
            {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "T:summary"}]},
            {"type": "function_call", "name": "f", "call_id": "c", "arguments": ARGUMENTS},
        ],
    }),
    ("openai", "/v1/images/generations", {"data": [{"b64_json": "aGk=", "revised_prompt": "T:revised"}]}),
    ("anthropic", "/v1/messages", {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [
        {"type": "text", "text": "T:said"}, {"type": "thinking", "thinking": "T:thought", "signature": "s"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"to": "T:input", "deep": {"x": ["T:deep"]}}},
    ]}),
    ("anthropic", "/v1/complete", {"completion": "T:said", "model": "m"}),
    ("gemini", f"{MODEL}:generateContent", {"modelVersion": "m", "candidates": [{"finishReason": "STOP", "content": {"role": "model",
        "parts": [
        {"text": "T:said"}, {"text": "T:thought", "thought": True}, {"functionCall": {"name": "f", "args": {"to": "T:arg"}}},
    ]}}]}),
    ("cohere", "/v2/chat", {"id": "1", "message": {"role": "assistant", "tool_plan": "T:plan", "content": [{"type": "text",
        "text": "T:said"}],
        "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": ARGUMENTS}}]}}),
    ("cohere", "/v1/chat", {"text": "T:said", "generation_id": "g", "chat_history": [{"role": "USER", "message": "T:asked"}],
        "tool_calls": [{"name": "f", "parameters": {"q": "T:parameter"}}]}),
    ("cohere", "/v1/generate", {"id": "g", "prompt": "T:prompt", "generations": [{"id": "1", "text": "T:said"}]}),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "path", "answer"), ANSWERED, ids=lambda value: value if isinstance(value, str) else "")
def test_exactly_the_text_of_an_answer_is_its_surface(dialect, path, answer, reached, canaries):
    spoken = dialect_of(dialect)
    assert reached(spoken.answer_surface(spoken.operation("POST", path, "")), answer) == canaries(answer)


def test_an_operation_without_text_has_no_surface():
    for name in ("openai", "azure-openai", "anthropic", "gemini", "vertex", "cohere"):
        op = dialect_of(name).operation("GET", "/v1/models", "")
        assert (dialect_of(name).surface(op), dialect_of(name).answer_surface(op)) == ((), ())


UNINSPECTED = [
    ("openai", "/v1/chat/completions", CHAT, ("image",)),
    ("openai", "/v1/chat/completions", {"messages": [{"content": [{"type": "input_audio"}, {"type": "file",
        "file": {"file_id": "f"}}]}]}, ("audio", "file")),
    ("openai", "/v1/chat/completions", {"messages": [{"content": [{"type": "file",
        "file": {"file_data": "data:application/pdf;base64,JVBE"}}]}]}, ("pdf",)),
    ("openai", "/v1/responses", {"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot"}}]}, ("image",)),
    ("openai", "/v1/responses", {"input": [{"type": "function_call_output", "output": [{"type": "input_file"}]}]}, ("file",)),
    ("openai", "/v1/images/edits", {}, ("image",)),
    ("openai", "/v1/audio/transcriptions", {}, ("audio",)),
    ("openai", "/v1/files", {}, ("file",)),
    ("anthropic", "/v1/messages", MESSAGES, ("image",)),
    ("anthropic", "/v1/messages", {"messages": [{"content": [{"type": "tool_result", "content": [{"type": "image"}]}]}]}, ("image",)),
    ("anthropic", "/v1/messages", {"messages": [{"content": [{"type": "document", "source": {"media_type": "application/pdf"}}]}]},
        ("pdf",)),
    ("anthropic", "/v1/messages", {"messages": [{"content": [{"type": "container_upload", "file_id": "f"}]}]}, ("file",)),
    ("anthropic", "/v1/messages/batches", {"requests": [{"params": MESSAGES}]}, ("image",)),
    ("anthropic", "/v1/files", {}, ("file",)),
    ("gemini", f"{MODEL}:generateContent", GENERATE, ("image",)),
    ("gemini", f"{MODEL}:generateContent", {"contents": {"parts": {"file_data": {"mime_type": "video/mp4"}}}}, ("video",)),
    ("gemini", "/upload/v1beta/files", {}, ("file",)),
    ("vertex", f"{V1}/multimodalembedding:predict", {"instances": [{"image": {"bytesBase64Encoded": "aGk="}}]}, ("image",)),
    ("cohere", "/v2/chat", COHERE_V2, ("image",)),
    ("cohere", "/v1/datasets", {}, ("file",)),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "path", "body", "kinds"), UNINSPECTED)
def test_what_no_text_rule_can_read_is_named(dialect, path, body, kinds):
    spoken = dialect_of(dialect)
    op = spoken.operation("POST", path, "")
    asked = spoken.read_asked(op, body)
    assert spoken.uninspected(op, asked) == kinds
    if op.body == "json":
        assert (asked.images, asked.files) == (kinds.count("image"), len(kinds) - kinds.count("image"))
