import json
from pathlib import Path

import yaml
from pydantic import BaseModel

from proxy.policy.model import PolicyModel
from proxy.policy.schema import schema, schema_text

COMMITTED = Path(__file__).parents[2] / "config" / "policy.schema.json"


def test_the_committed_schema_is_the_one_of_the_model():
    assert COMMITTED.read_text() == schema_text(), "run: python -m proxy schema > config/policy.schema.json"


def parts(model=PolicyModel, seen=None):
    seen = {} if seen is None else seen
    if model.__name__ not in seen:
        seen[model.__name__] = model
        for field in model.model_fields.values():
            for one in _models(field.annotation):
                parts(one, seen)
    return seen


def _models(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)


def test_every_key_says_what_it_is():
    silent = [f"{name}.{key}" for name, part in parts().items() for key, field in part.model_fields.items() if not field.description]
    assert silent == []
    assert len(parts()) > 40


def test_defaults_stand_in_the_words_of_the_policy():
    parts = schema()["$defs"]
    assert parts["Retry"]["properties"]["backoff"]["default"] == "0.5s..8s"
    assert parts["Server"]["properties"]["max_body"]["default"] == "64MB"
    assert parts["TimeoutsPart"]["properties"]["total"]["default"] == "10m"
    assert parts["Breaker"]["properties"]["failure_ratio"]["default"] == "50%"


def test_the_defaults_of_the_schema_are_a_policy(problems):
    found = schema()
    plain = {name: field["default"] for name, field in found["properties"].items() if "default" in field}
    for key in ("retry", "breaker", "timeouts", "server"):
        part = found["$defs"][{"retry": "Retry", "breaker": "Breaker", "timeouts": "TimeoutsPart", "server": "Server"}[key]]
        plain[key] = {name: field["default"] for name, field in part["properties"].items() if "default" in field}
    assert problems(yaml.safe_dump(json.loads(json.dumps(plain)))) == []
