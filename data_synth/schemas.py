"""The JSON schemas that replies must fit: what is sent to the server is what is checked here.

A server may ignore the schema it is sent, so every reply is checked. Only the keywords of JSON Schema below are
supported; bounds on the length of texts are not sent, because some servers expand them into grammars that they then
refuse.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]
_KNOWN = frozenset({"type", "properties", "required", "additionalProperties", "enum", "items", "minItems", "maxItems"})


def object_schema(**properties: Schema) -> dict[str, Any]:
    """An object with exactly these keys, in the order in which the model shall generate them."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def text() -> dict[str, Any]:
    """A text that is not empty."""
    return {"type": "string"}


def one_of(names: Sequence[str]) -> dict[str, Any]:
    """One of the names."""
    return {"type": "string", "enum": list(names)}


def texts(num: int) -> dict[str, Any]:
    """A list of ``num`` texts."""
    return {"type": "array", "items": text(), "minItems": num, "maxItems": num}


def fit_choices(value: Any, schema: Schema) -> Any:
    """The object with its enum values normalised to the schema's spelling: 2 to "2", "Yes or no" to "yes_or_no"."""
    if not isinstance(value, dict):
        return value
    return {key: _choice(child, schema.get("properties", {}).get(key, {})) for key, child in value.items()}


def _choice(value: Any, schema: Schema) -> Any:
    if not isinstance(value, str | int) or "enum" not in schema:
        return value
    spelling = _spelling(str(value))
    return next((name for name in schema["enum"] if _spelling(name) == spelling), value)


def _spelling(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def schema_problem(value: Any, schema: Schema, place: str = "reply") -> str | None:
    """What is wrong with a value, with its place; None if it fits.

    Args:
        value: a JSON value.
        schema: to check it against.
        place: of the value, for the message.

    Raises:
        ValueError: the schema uses a keyword that is not supported here.
    """
    if unknown := schema.keys() - _KNOWN:
        raise ValueError(
            f"schema keyword {sorted(unknown)[0]!r} is not supported. Known are {', '.join(sorted(_KNOWN))}."
        )
    match schema["type"]:
        case "string":
            return _string_problem(value, schema, place)
        case "array":
            return _array_problem(value, schema, place)
        case "object":
            return _object_problem(value, schema, place)
    raise ValueError(f"schema type {schema['type']!r} is not supported.")


def _string_problem(value: Any, schema: Schema, place: str) -> str | None:
    if not isinstance(value, str):
        return f"{place} is a {type(value).__name__} instead of a text"
    if not value.strip():
        return f"{place} is empty"
    if "enum" in schema and value not in schema["enum"]:
        return f"{place} is {value[:80]!r}, not one of {', '.join(schema['enum'])}"
    return None


def _array_problem(value: Any, schema: Schema, place: str) -> str | None:
    if not isinstance(value, list):
        return f"{place} is a {type(value).__name__} instead of a list"
    if not schema["minItems"] <= len(value) <= schema["maxItems"]:
        return f"{place} has {len(value)} entries instead of {schema['minItems']}"
    problems = (schema_problem(child, schema["items"], f"{place}[{index}]") for index, child in enumerate(value))
    return next((problem for problem in problems if problem), None)


def _object_problem(value: Any, schema: Schema, place: str) -> str | None:
    if not isinstance(value, Mapping):
        return f"{place} is a {type(value).__name__} instead of an object"
    if missing := [key for key in schema["required"] if key not in value]:
        return f"{place} has no {missing[0]!r}"
    if extra := [key for key in value if key not in schema["properties"]]:
        return f"{place} has {str(extra[0])[:80]!r}, which was not asked for"
    for key, child in schema["properties"].items():
        if problem := schema_problem(value[key], child, f"{place}.{key}"):
            return problem
    return None
