"""From a reply's text to the object that was asked for, or the reason why there is none.

Tolerant of how models wrap JSON (fences, prose around it, trailing commas, a thought before it), strict about what it
says: whatever is found must fit the schema, with no key more, and there must be one such object, not two that differ. A
reply that the server cut off is never mended: half a query would look like a whole one.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from data_synth.schemas import fit_choices, schema_problem
from data_synth.work import Rejected, Reply

_MAX_REPLY = 100_000  # characters; nothing that is asked for is as long
_MAX_TEXT = 8_000  # characters of one text in it
_MAX_STARTS = 50  # opening braces tried, so that a page of them takes no time
_CONTROL_TOKEN = re.compile(r"<\|[^<>|\n]{1,40}\|>")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_FENCE = re.compile(r"```[\w-]*[ \t]*\n?(.*?)```", re.DOTALL)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_PUNCTUATION = re.compile(r"[\s{}\[\],:]*")
_SHOWN = 200  # characters of a bad reply in a rejection


def parse_reply(reply: Reply, schema: Mapping[str, Any], max_characters: int = _MAX_TEXT) -> dict[str, Any] | Rejected:
    """The object of a reply.

    Args:
        reply: the teacher's.
        schema: what it should fit (see schemas.py).
        max_characters: longest text anywhere in the object.

    Returns:
        The object, its texts without white space around them; or ``Rejected`` with reason "reply_cut",
        "content_filter", "reply_too_long", "not_json", "several_objects", "schema", "text_too_long",
        "control_character" or "not_unicode".
    """
    if reply.finish_reason == "length":
        return Rejected("reply_cut", f"cut at {reply.completion_tokens} tokens: {_shown(reply.text)}")
    if reply.finish_reason == "content_filter":
        return Rejected("content_filter", _shown(reply.text))
    if len(reply.text) > _MAX_REPLY:
        return Rejected("reply_too_long", f"{len(reply.text)} characters: {_shown(reply.text)}")
    found: list[Any] = []
    problem = ""
    for written in _objects(_without_thought(reply.text)):
        value = fit_choices(written, schema)
        reason = schema_problem(value, schema)
        if reason is None:
            if value not in found:
                found.append(value)
        else:
            problem = problem or reason
    if len(found) > 1:
        return Rejected("several_objects", f"{len(found)} different answers: {_shown(reply.text)}")
    if not found:
        return Rejected("schema", f"{problem}: {_shown(reply.text)}") if problem else Rejected(
            "not_json", _shown(reply.text)
        )  # fmt: skip
    return _checked_texts(_stripped(found[0]), max_characters)


def _without_thought(text: str) -> str:
    """The reply proper; a chat template may have written the opening tag, so that only the EOS is seen."""
    if text.lstrip().startswith(("{", "`")):
        return text
    thought, tag, answer = text.partition("</think>")
    if tag:
        return answer
    return "" if "<think>" in thought else text


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """All outermost JSON objects of a text, repaired only where no object reads as it stands."""
    strict = list(_strict_objects(text))
    if strict:
        yield from strict
        return
    for part in _FENCE.findall(text) or [text]:
        start, end = part.find("{"), part.rfind("}")
        if 0 <= start < end:  # without a closing brace the reply is torn, and mending would invent its end
            yield from _repaired(part[start : end + 1])


def _strict_objects(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder(object_pairs_hook=_without_twins, parse_constant=_refuse_constant, strict=False)
    at = outermost = text.find("{")
    for _ in range(_MAX_STARTS):
        if at < 0:
            return
        end = at + 1
        # What stands inside an object that does not read is a part of it, perhaps of one of its texts: no answer.
        if text.count("{", outermost, at) == text.count("}", outermost, at):
            try:
                value, end = decoder.raw_decode(text, at)
                outermost = end
                yield value
            except (ValueError, RecursionError):
                pass
        at = text.find("{", end)


def _repaired(text: str) -> Iterator[dict[str, Any]]:
    """The object after repair, where repair mended punctuation alone."""
    from json_repair import repair_json

    try:
        value = repair_json(text, return_objects=True, skip_json_loads=True)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict) and _is_all_there(text, value):
        yield value


def _is_all_there(text: str, value: dict[str, Any]) -> bool:
    """Whether each key and text of a repaired object stands whole in the reply, between quotes of its own, and nothing
    else does: repair also closes torn texts, drops twins and takes bare words for texts."""
    rest = text
    for piece in _pieces(value):
        spellings = (piece, *(json.dumps(piece, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True)))
        quoted = (f"{quote}{spelling}{quote}" for spelling in spellings for quote in "\"'")
        found = next((candidate for candidate in quoted if candidate in rest), None)
        if found is None:
            return False
        rest = rest.replace(found, "", 1)
    return _PUNCTUATION.fullmatch(_COMMENT.sub("", rest)) is not None


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield str(key)
            yield from _pieces(child)
    elif isinstance(value, list):
        for child in value:
            yield from _pieces(child)
    else:
        yield str(value)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _stripped(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return [_stripped(child) for child in value]
    return {key: _stripped(child) for key, child in value.items()} if isinstance(value, dict) else value


def _checked_texts(value: dict[str, Any], max_characters: int) -> dict[str, Any] | Rejected:
    for key, child in value.items():
        for text in child if isinstance(child, list) else [child]:
            if len(text) > max_characters:
                return Rejected("text_too_long", f"{key}: {len(text)} characters: {_shown(text)}")
            if _CONTROL_CHARACTER.search(text) or _CONTROL_TOKEN.search(text):
                return Rejected("control_character", f"{key}: {_shown(text)!a}")
            try:
                text.encode()
            except UnicodeEncodeError:
                return Rejected("not_unicode", f"{key}: half a surrogate pair: {_shown(text)}")
    return value


def _shown(text: str) -> str:
    """The beginning of a text, so that any file can hold it."""
    return text[:_SHOWN].encode("utf-8", "backslashreplace").decode()
