r"""Back-slashes that a reply failed to double: ``\theta`` in a JSON text is a tab and "heta".

JSON knows ``\b \f \n \r \t``, so a formula, a path or a regular expression written with single back-slashes is valid
JSON with other content. Some of the resulting characters are never wanted in a text (``\b``, ``\f``, ``\r`` before a
letter): there the back-slash is put back, and likewise for a tab or line end whose following letters complete the name
of a LaTeX command. A tab that is left in a text of one line is a sign of something else lost: the reply is rejected.
"""

import re

_LETTER = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_NEVER_WANTED = re.compile("[\b\f]|\r(?=[A-Za-z])")
# Commands whose name begins with t or n. Those that are words or beginnings of words as well stand apart.
_COMMANDS = {
    "\t": (
        "tabular tag tanh tau tbinom tfrac textasciicircum textasciitilde textbackslash textbf textcolor "
        "texteuro textgreater textit textless textmd textnormal textquotedbl textrm textsc textsf textsl "
        "textstyle textsubscript textsuperscript texttt textunderscore textup therefore theta thetasym "
        "thickapprox thicksim thinspace tilde times tfrac toprule triangle triangledown triangleleft "
        "trianglelefteq triangleq triangleright trianglerighteq twoheadleftarrow twoheadrightarrow tensor"
    ),
    "\n": (
        "nabla natural ncong nearrow neg neq newcommand newline nexists ngeq ngtr nleq nless nleftarrow "
        "nLeftarrow nmid nolimits nonumber normalsize notin nparallel nprec npreceq nrightarrow nRightarrow "
        "nsim nsubset nsubseteq nsucc nsucceq nsupset nsupseteq ntriangleleft ntriangleright nvdash nvDash "
        "nwarrow"
    ),
}
_SHORT_COMMANDS = {"\t": "tan text to top tr tt", "\n": "ne ni nu not norm"}
_FORMULA = re.compile(r"\\[A-Za-z]|\$")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)


def _pattern(commands: dict[str, str]) -> re.Pattern[str]:
    """Matches the control character before the rest of a command's name."""
    rests = {first: "|".join(name[1:] for name in names.split()) for first, names in commands.items()}
    return re.compile("|".join(f"{first}(?=(?:{rest})(?![A-Za-z]))" for first, rest in rests.items()))


_LONG = _pattern(_COMMANDS)
_SHORT = _pattern(_SHORT_COMMANDS)


def double_invalid(text: str) -> str:
    r"""JSON text in which back-slashes that JSON does not know are doubled: ``\alpha``, ``\sum``, ``\underline``.

    ``\'`` becomes the quote: nobody means the back-slash.
    """

    def doubled(match: re.Match[str]) -> str:
        escaped = match[1]
        if escaped == "'":
            return "'"
        return match[0] if escaped in tuple('"\\/bfnrt') or len(escaped) == 5 else f"\\{match[0]}"

    return _ESCAPE.sub(doubled, text)


def mend(text: str, *, is_one_line: bool) -> str | None:
    r"""A text with its back-slashes put back; None if it holds a tab that it cannot want.

    Args:
        text: decoded from JSON.
        is_one_line: a query or a label, in which neither tabs nor line ends are wanted. Line ends that are left become
            spaces; in other texts, indentation by tabs stays.
    """
    if not any(character in text for character in _LETTER):
        return text
    text = text.replace("\r\n", "\n")
    mended = _NEVER_WANTED.sub(_restored, text)
    mended = _LONG.sub(lambda match: _restored_within(match, is_one_line), mended)
    # "\ne" may be a line that begins with "e": only another sign of a formula decides.
    if is_one_line or _FORMULA.search(mended):
        mended = _SHORT.sub(lambda match: _restored_within(match, is_one_line), mended)
    if not is_one_line:
        return mended
    stripped = mended.strip()
    if "\t" in stripped or (re.search(r"\\[A-Za-z]", stripped) and re.search(r"\n(?=[a-z])", stripped)):
        return None
    # A query wrapped in its instruction stays as it is, for the check of rows to refuse.
    return stripped if stripped.startswith("Instruct:") else re.sub(r"\s*\n\s*", " ", stripped)


def _restored(match: re.Match[str]) -> str:
    return f"\\{_LETTER[match[0]]}"


def _restored_within(match: re.Match[str], is_one_line: bool) -> str:
    is_indentation = match[0] == "\t" and match.string[: match.start()].rstrip("\t")[-1:] in ("", "\n")
    return match[0] if is_indentation and not is_one_line else _restored(match)
