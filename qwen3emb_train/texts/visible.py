"""Text from elsewhere, safe to print: what a terminal would obey is shown instead."""

import re

# C0 and C1 controls but tab and newline, and the marks that reverse the order in which text is shown.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""``text`` with control characters written out, as in ``\x1b[2J``; newlines and tabs stay."""
    return _OBEYED.sub(lambda found: repr(found[0])[1:-1], text)
