"""From a reply's text to the requested JSON object, or the reason why there is none.

Tolerant of the way models wrap JSON (code fences, prose around it, trailing commas, reasoning before it), strict about
the content: the object must fit the schema, without extra keys, and there must be exactly one, not two that differ. A
truncated reply is never repaired: half a query would look like a whole one.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from data_synth.backslashes import double_invalid, mend
from data_synth.schemas import fit_choices, schema_problem
from data_synth.work import Rejected, Reply

_MAX_REPLY = 100_000  # characters; more than any requested object needs
_MAX_TEXT = 8_000  # characters of one text in it
_MAX_STARTS = 50  # opening braces tried, to bound the time
# The end of reasoning in the words of different models; what follows is the answer.
_REASONING_END = re.compile(
    r"</(?:seed:)?(?:think|thinking|thought|reasoning|analysis)>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>"
    r"|<\|channel\|>final[^{<]*(?:<\|constrain\|>\w*)?<\|message\|>",
    re.IGNORECASE,
)
_REASONING_BEGIN = re.compile(
    r"<(?:seed:)?(?:think|thinking|thought|reasoning|analysis)>|\[THINK\]|◁think▷|<\|begin_of_thought\|>"
    r"|<\|START_THINKING\|>|<\|channel\|>analysis",
    re.IGNORECASE,
)
_SPELT_OUT = re.compile(r"\\u000[89acd]", re.IGNORECASE)  # a control character that is meant
_CONTROL_TOKEN = re.compile(r"<\|[^<>|\n]{1,40}\|>")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_FENCE = re.compile(r"```[\w-]*[ \t]*\n?(.*?)```", re.DOTALL)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_PUNCTUATION = re.compile(r"[\s{}\[\],:]*")
_SHOWN = 200  # characters of a bad reply in a rejection


def parse_reply(
    reply: Reply, schema: Mapping[str, Any], max_characters: int = _MAX_TEXT, *, lines: Collection[str] = ()
) -> dict[str, Any] | Rejected:
    """Parses a reply.

    Args:
        reply: the teacher's.
        schema: of the object (see schemas.py).
        max_characters: longest text anywhere in the object.
        lines: keys whose texts may have several lines.

    Returns:
        The object, its texts stripped of white space; or ``Rejected`` with reason "reply_cut", "content_filter",
        "refusal", "unreadable_reply", "reply_too_long", "not_json", "several_objects", "schema", "text_too_long",
        "control_character" or "not_unicode".
    """
    text, finish = reply.text, reply.finish_reason
    if finish == "length":
        is_thinking = _REASONING_BEGIN.search(text) and not _REASONING_END.search(text)
        told = f"cut at {reply.completion_tokens} tokens{' while it was thinking' if is_thinking else ''}"
        return Rejected("reply_cut", f"{told}: {_shown(text)}")
    if finish in ("content_filter", "refusal"):
        return Rejected(finish, _shown(text))
    if finish == "unreadable":
        return Rejected("unreadable_reply", _shown(text))
    if len(text) > _MAX_REPLY:
        return Rejected("reply_too_long", f"{len(text)} characters: {_shown(text)}")
    found: list[Any] = []
    problem = ""
    for written in _objects(_without_reasoning(text)):
        value = fit_choices(written, schema)
        reason = schema_problem(value, schema)
        if reason is None:
            if value not in found:
                found.append(value)
        else:
            problem = problem or reason
    if len(found) > 1:
        return Rejected("several_objects", f"{len(found)} different answers: {_shown(text)}")
    if not found:
        shown = _shown(text) if text.strip() else f"nothing was written (finish_reason {finish})"
        return Rejected("schema", f"{problem}: {shown}") if problem else Rejected("not_json", shown)
    return _checked_texts(found[0], max_characters, lines, is_mended=_SPELT_OUT.search(text) is None)


def _without_reasoning(text: str) -> str:
    """The reply after the reasoning; its opening tag may be part of the chat template, so the closing tag suffices."""
    if text.lstrip().startswith(("{", "`")):
        return text
    if end := _REASONING_END.search(text):
        later = _REASONING_END.search(text, end.end())
        # A second end follows where the reasoning itself spoke of one, unless the answer has begun before it.
        while later is not None and "{" not in text[end.end() : later.start()]:
            end, later = later, _REASONING_END.search(text, later.end())
        return text[end.end() :]
    return "" if _REASONING_BEGIN.search(text) else text


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """All outermost JSON objects of a text; repaired only if none is valid."""
    strict = list(_strict_objects(text)) or list(_strict_objects(double_invalid(text)))
    if strict:
        yield from strict
        return
    for part in _FENCE.findall(text) or [text]:
        start, end = part.find("{"), part.rfind("}")
        if 0 <= start < end:  # without a closing brace the reply is truncated, and a repair would invent its end
            yield from _repaired(part[start : end + 1])


def _strict_objects(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder(object_pairs_hook=_without_duplicate_keys, parse_constant=_refuse_constant, strict=False)
    at = outermost = text.find("{")
    for _ in range(_MAX_STARTS):
        if at < 0:
            return
        end = at + 1
        # An object inside an invalid one is part of it, perhaps of one of its texts: not an answer.
        if text.count("{", outermost, at) == text.count("}", outermost, at):
            try:
                value, end = decoder.raw_decode(text, at)
                outermost = end
                yield value
            except (ValueError, RecursionError):
                pass
        at = text.find("{", end)


def _repaired(text: str) -> Iterator[dict[str, Any]]:
    """The repaired object, if the repair changed punctuation only."""
    from json_repair import repair_json

    try:
        value = repair_json(text, return_objects=True, skip_json_loads=True)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict) and _is_complete(text, value):
        yield value


def _is_complete(text: str, value: dict[str, Any]) -> bool:
    """Whether each key and text of a repaired object occurs in the reply, quoted, and nothing else does.

    Repair also closes truncated texts, drops duplicate keys and accepts unquoted words.
    """
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


def _without_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _checked_texts(
    value: dict[str, Any], max_characters: int, lines: Collection[str], *, is_mended: bool
) -> dict[str, Any] | Rejected:
    """The object with its texts stripped and their back-slashes put back, or what is wrong with one."""
    checked: dict[str, Any] = {}
    for key, child in value.items():
        texts = child if isinstance(child, list) else [child]
        mended = [mend(text, is_one_line=key not in lines) if is_mended else text for text in texts]
        for text, whole in zip(texts, mended, strict=True):
            if len(text) > max_characters:
                return Rejected("text_too_long", f"{key}: {len(text)} characters: {_shown(text)}")
            if whole is None or _CONTROL_CHARACTER.search(whole) or _CONTROL_TOKEN.search(whole):
                return Rejected("control_character", f"{key}: {_shown(text)!a}")
            if _is_broken(whole):
                return Rejected("not_unicode", f"{key}: a character is lost: {_shown(text)}")
        stripped = [text.strip() for text in mended if text is not None]
        checked[key] = stripped if isinstance(child, list) else stripped[0]
    return checked


def _is_broken(text: str) -> bool:
    """Whether it has half a surrogate pair, or the character that stands for bytes that could not be read."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return "\ufffd" in text


def _shown(text: str) -> str:
    """The beginning of a text, encodable as UTF-8."""
    return text[:_SHOWN].encode("utf-8", "backslashreplace").decode()
