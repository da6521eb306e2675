"""The JSON Schema of the policy, for editors and generated docs. It describes; `read` decides."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from proxy.policy.model import PolicyModel
from proxy.policy.unsupported import ROWS


class _Generator(GenerateJsonSchema):
    """Defaults of whole maps are left out: their keys carry their own, in the policy's spelling."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        default = schema.get("default")
        if isinstance(default, BaseModel) or default in ({}, (), None):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """null is absent, in every place: not worth a word in each."""
        return self.generate_inner(schema["schema"])

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        forms: dict[str, list[dict[str, Any]]] = {
            "_off": [{"const": "off"}, {"const": False}],
            "_listed": [inner.get("items", {})],
            "_listed_or_off": [inner.get("items", {}), {"const": "off"}, {"const": False}],
            "_action": [{"const": False}],
            "_entities": [{"enum": ["off", "flag", "mask", "block", False]}],
            "_claim": [{"type": "string", "minLength": 1}],
        }
        more = forms.get(getattr(schema["function"]["function"], "__name__", ""), [])
        return {"anyOf": [inner, *more]} if more else inner


def schema() -> dict[str, Any]:
    """Of the whole language; keys that are not built yet say so."""
    found: dict[str, Any] = PolicyModel.model_json_schema(schema_generator=_Generator)
    found["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    found["title"] = "Sluice policy"
    found["x-not-supported-yet"] = sorted({row.path for row in ROWS})
    return found


def schema_text() -> str:
    """As committed in config/policy.schema.json."""
    return json.dumps(schema(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"
