"""From a docstring to its summary, and from the summary to a question, by fixed rules.

"Return the number of days in the month." becomes "how do I get the number of days in the month?", "how to get ...",
"function that returns ..." or "number days month"; a hash of the summary selects the form, so equal summaries give
equal questions and the output is reproducible.
"""

import hashlib
import re

_MIN_WORDS, _MAX_WORDS = 3, 30

_KNOWN_VERBS = """
    abort accept acquire activate add adjust allow append apply arrange ask assemble assert assign attach
    authenticate begin bind block build byte-compile calculate call cancel cast change check choose classify
    clean clear clone close collapse collect combine compare compile complete compress compute configure
    connect construct consume convert copy count create customize deactivate debug decide decode decompress
    decrement decrypt define delete deserialize destroy detach detect determine disable disassemble discard
    disconnect dismiss dispatch display divide do draw dump duplicate emit enable encode encrypt ensure
    enter enumerate escape establish evaluate examine exchange execute exit expand export express extend
    extract fail feed fetch figure fill filter find finish fix flash flush fold follow force fork format
    free generate get group guess handle hash hide highlight identify import increment indent indicate
    initialize initiate insert inspect install instruct interpret invert invoke isolate iterate join kill
    launch limit link list load locate lock log look lookup lower make map mark match measure merge modify
    monitor move multiply normalize obtain open optimize override pack parse pause perform place play pop
    populate post prepare pretty-print print process produce prompt pull push put query quote raise read
    rebuild recalculate receive recompute reconfigure record redirect reduce refactor register release
    reload remember remove rename render repeat replace report represent request reschedule reset resize
    resolve restore resume retrieve return reverse rotate round run save scale scan schedule scroll search
    seek select send separate serialize serve set setup shift show shuffle shutdown skip sleep sort spawn
    split start step stop store strip submit subtract suspend swap switch take terminate test toggle trace
    track transform translate transmit traverse trim truncate try turn unbind unlock unmap unpack unregister
    unset update upgrade upload use validate verify visit wait wake walk warn work wrap write yield
"""
_VERBS = frozenset(_KNOWN_VERBS.split())
_GETTING = frozenset({"return", "retrieve", "obtain", "yield", "fetch", "get"})
# Summaries that refer to other code instead of what the function does.
_EVASIVE = re.compile(
    r"(abstract|alias|always|backwards?|by|callback|called|calls|can|compatibility|concrete|convenience|default|delegate"
    r"|deprecated|do not|does|don't|equivalent|error|for|handler|helper|hook|if|implementation|in|included|internal"
    r"|is|just|like|method|must|obsolete|on|optional|overridable|override|overridden|real|replacement|same|see|shorthand"
    r"|similar|special|stub|support|this|todo|undocumented|used|version|when|wrapper)\b",
    re.IGNORECASE,
)
_STOP_WORD_LIST = """
    a an the of to for from in on at by with and or as is are be been if it its this that these those which into
    return returns given whether all any can will should has have was were not no then than such
"""
_STOP_WORDS = frozenset(_STOP_WORD_LIST.split())
_CONDITION = re.compile(
    r"((returns? |test |check )?(true|whether)|(return|test|check)s? if)( if and only if| if| when| iff| whether)? ",
    re.IGNORECASE,
)
# "D.get(k[,d]) -> D[k] if k in D" and ">>> ..." in place of a summary.
_SIGNATURE_LINE = re.compile(
    r"\s*[\w.]+\s?\([^()]*(\([^()]*\)[^()]*)*\)\s*(->.*|--.*|:.*|=.*)?\.?\s*(\n|$)|\s*>>>.*(\n|$)"
)
_SENTENCE_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\betc)[.!?](?=\s+[A-Z(`'\"*])|\n\s*\n|\n(?=\s*([-*:=+]|>>>))"
)
# Grammar rules, signatures in prose and statements about the code: not noun phrases.
_NO_PHRASE = re.compile(r"[=\[\]<>]|->|\b(is|are|must|should|will|may|can)\b")


def split_docstring(docstring: str) -> tuple[str, str]:
    """(first sentence on one line, the rest); the sentence is empty if there is none."""
    text = docstring.strip()
    while (signature := _SIGNATURE_LINE.match(text)) is not None:
        text = text[signature.end() :].lstrip()
    end = _SENTENCE_END.search(text)
    summary = text[: end.end()] if end else text
    return plain(summary), text[len(summary) :].strip()


def plain(text: str) -> str:
    """One line without markup: no reST roles, backquotes or emphasis."""
    text = re.sub(r":[\w:]+:`~?([^`]*)`", r"\1", text)
    text = re.sub(r"[`*]+([^`*]+?)[`*']+", r"\1", text)
    return " ".join(text.split()).lstrip("*-# ")


def question(summary: str, function_name: str) -> str | None:
    """A query of a person who needs this function; None if the summary is not usable.

    Not usable are summaries that are too short or long, refer to other code, or contain the function's name.
    """
    text = re.sub(r"[,;]? (otherwise|else)\b.*$", "", summary, flags=re.IGNORECASE)
    text = re.sub(r"\bself\b", "the object", text.replace("self.", "")).rstrip(" .:;!,")
    words = text.split()
    if not _MIN_WORDS <= len(words) <= _MAX_WORDS or _EVASIVE.match(text) or _contains_name(text, function_name):
        return None
    choice = hashlib.sha256(text.encode()).digest()[0]
    if (condition := _CONDITION.match(text)) is not None:
        return _ask("check", "whether " + text[condition.end() :], choice)
    adverbs = [words.pop(0).lower()] if words[0].endswith("ly") else []
    verb = _imperative(words[0])
    if verb is None and (adverbs or _NO_PHRASE.search(text) or not words[0].isalpha()):
        return None
    keywords = _keywords(words)
    if verb is None or (choice % 4 == 0 and len(keywords) >= _MIN_WORDS):
        return " ".join(keywords) if len(keywords) >= _MIN_WORDS else None
    asked, told = ("get", "returns") if verb in _GETTING else (verb, _third_person(verb))
    if len(words) > 3 and words[1] in ("and", "or") and (second := _imperative(words[2])) is not None:
        asked, told = f"{asked} {words[1]} {second}", f"{told} {words[1]} {_third_person(second)}"
        del words[1:3]
    rest = " ".join(words[1:])
    return _ask(" ".join([*adverbs, asked]), rest, choice, " ".join([*adverbs, told]))


def _ask(verb: str, rest: str, choice: int, verb_of_function: str | None = None) -> str:
    forms = (
        f"how do I {verb} {rest}?",
        f"how to {verb} {rest}",
        f"function that {verb_of_function or _third_person(verb)} {rest}",
        f"how can I {verb} {rest} in python?",
    )
    return forms[choice // 4 % len(forms)]


def _contains_name(text: str, name: str) -> bool:
    """Whether the text contains the function's name in a form that ordinary words do not have, or as code."""
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)(.?)", text)
    if found is None:
        return False
    before = text[found.start() - 1 : found.start()]
    return not (name.isalpha() and name.islower()) or found[1] in ("(", "'", '"', "`") or before in ("'", '"', "`", ".")


def _keywords(words: list[str]) -> list[str]:
    stripped = (word.strip(".,;:?!()'\"") for word in [_lower_first(words[0]), *words[1:]])
    return [word for word in stripped if word and word.lower() not in _STOP_WORDS]


def _imperative(word: str) -> str | None:
    """ "Returns" -> "return", "Tries" -> "try"; None if it is not a known verb."""
    word = word.lower().rstrip(",")
    for candidate in (word, word[:-1], word[:-2], word[:-3] + "y"):
        if candidate in _VERBS and word in (candidate, _third_person(candidate)):
            return candidate
    return None


def _third_person(verb: str) -> str:
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")


def _lower_first(word: str) -> str:
    """Lower-case first letter, unless the word is an acronym or an identifier ("URL", "XPath", "IPv4Address")."""
    return word if word[1:] != word[1:].lower() else word[:1].lower() + word[1:]
