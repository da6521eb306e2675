"""The leaf values as pydantic field types, each with its JSON Schema. Adds no meaning to `values`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from proxy.policy import values
from proxy.policy.document import Said
from proxy.policy.plan import Rate, Spend
from proxy.policy.values import Ref

T = TypeVar("T")


class Part(BaseModel):
    """A map of the policy: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", arbitrary_types_allowed=True)

    def __reduce__(self) -> tuple[type[Said], tuple[dict[str, object], frozenset[str]]]:
        """Pickled, it is what it says: who takes it needs neither this class nor pydantic."""
        kinds = [kind for kind in type(self).__mro__ if issubclass(kind, Part)]
        asked = {name for kind in kinds for name, value in vars(kind).items() if isinstance(value, property)}
        said = dict(list(self)) | {name: getattr(self, name) for name in asked}  # not dict(self): a field may be called `keys`
        return Said, (said, frozenset(self.model_fields_set))


def worded(words: object, read: Callable[[object], T], description: str) -> T:
    """A field whose default is given as the policy would spell it; the schema shows that spelling."""
    return Field(default=read(words), description=description, json_schema_extra={"default": cast(Any, words)})


def _off(value: object) -> object:
    return None if value is False or value == "off" else value


def _listed(value: object) -> object:
    return value if isinstance(value, tuple) else (value,)


def _listed_or_off(value: object) -> object:
    return () if value is False or value == "off" else _listed(value)


def _schema(pattern: str, *examples: str, zero: bool = False, off: bool = False) -> WithJsonSchema:
    words: list[dict[str, object]] = [{"type": "string", "pattern": pattern, "examples": list(examples)}]
    if zero:
        words.append({"const": 0})
    if off:
        words += [{"const": "off"}, {"const": False}]
    return WithJsonSchema(words[0] if len(words) == 1 else {"anyOf": words})


_N = r"\d+(_\d+)*(\.\d+)?"
Feature = BeforeValidator(_off)  # `off` and false are None; an absent key keeps the default
OneOrMany = BeforeValidator(_listed)  # one value, or a list of them
ManyOrOff = BeforeValidator(_listed_or_off)  # or off, which is none
Text = Annotated[str, PlainValidator(values.text), WithJsonSchema({"type": "string", "minLength": 1})]
Flag = Annotated[bool, PlainValidator(values.flag), WithJsonSchema({"anyOf": [{"type": "boolean"}, {"const": "off"}]})]
Count = Annotated[
    int,
    PlainValidator(values.count),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{_N}[kKMG]?$"}]}),
]
Positive = Annotated[
    int,
    PlainValidator(values.positive),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^{_N}[kKMG]?$"}]}),
]
RateText = Annotated[Rate, PlainValidator(values.rate), _schema(rf"^{_N}[kKMG]?\s*/\s*(min|hour|day)$", "10/min", "10k/day", zero=True)]
SpendText = Annotated[
    Spend,
    PlainValidator(values.spend),
    _schema(rf"^(\$\s*{_N}[kKM]?|{_N}[kKM]?\s*USD)\s*/\s*(day|month|total)$", "$5/day", "5 USD/day", zero=True),
]
Dollars = Annotated[
    int,
    PlainValidator(values.dollars),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": rf"^\$?{_N}$"}]}),
]
Duration = Annotated[float, PlainValidator(values.duration), _schema(rf"^{_N}\s*(ms|s|m|h|d)$", "5s", "10m")]
Timeout = Annotated[float, PlainValidator(values.timeout), _schema(rf"^{_N}\s*(ms|s|m|h|d)$", "5s", "10m", off=True)]
Span = Annotated[tuple[float, float], PlainValidator(values.span), _schema(rf"^{_N}(ms|s|m|h|d)(\.\.{_N}(ms|s|m|h|d))?$", "0.5s..8s")]
Size = Annotated[int, PlainValidator(values.size), _schema(rf"^{_N}\s*(B|KB|MB|GB|TB|KiB|MiB|GiB)$", "64MB")]
Share = Annotated[float, PlainValidator(values.share), _schema(rf"^{_N}\s*%$", "20%")]
Millionths = Annotated[int, PlainValidator(values.parts_per_million), _schema(rf"^{_N}\s*%$", "12%")]
Fraction = Annotated[float, PlainValidator(values.fraction), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})]
Weight = Annotated[float, PlainValidator(values.weight), WithJsonSchema({"type": "number", "minimum": 0})]
Secret = Annotated[
    Ref,
    PlainValidator(values.reference),
    _schema(r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$", "env:OPENAI_API_KEY", "file:/run/secrets/openai"),
]
TextOrSecret = Annotated[str | Ref, PlainValidator(values.text_or_reference), WithJsonSchema({"type": "string", "minLength": 1})]
Zone = Annotated[str, PlainValidator(values.zone), WithJsonSchema({"type": "string", "examples": ["UTC", "Europe/Berlin"]})]
Date = Annotated[str, PlainValidator(values.date), _schema(r"^\d{4}-\d\d-\d\d$", "2027-03-01")]
Texts = Annotated[tuple[Text, ...], OneOrMany]
TextsOrOff = Annotated[tuple[Text, ...], ManyOrOff]
