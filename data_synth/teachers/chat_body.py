"""The body of a chat request, as every engine sends it."""

from dataclasses import fields
from typing import Any

from data_synth.teachers.completions import whole
from data_synth.teachers.settings import TeacherConfig
from data_synth.work import Request, Sampling

_SAMPLING = tuple(field.name for field in fields(Sampling))


def chat_body(config: TeacherConfig, request: Request) -> dict[str, Any]:
    """The fields of a request, without its schema; what is null is left out.

    Some servers refuse a field that they do not know even when it is null.
    """
    body = {
        "model": config.model,
        "messages": [{"role": message.role, "content": whole(message.content)} for message in request.messages],
        **{name: getattr(request.sampling, name) for name in _SAMPLING},
        **config.extra_fields(),
    }
    return {name: value for name, value in body.items() if value is not None}


def response_format(request: Request) -> dict[str, Any]:
    """The field that asks for a reply by the request's schema."""
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": request.schema, "strict": True}}
