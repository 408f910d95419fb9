"""Addresses that are not in the source were made up, or planted."""

import re

from data_synth.filters.candidates import Candidate, Reason, Verdict

# Bounded: a text of 100,000 letters must not take a quadratic search.
_ADDRESS = re.compile(
    r"(?:https?://|www\.)[^\s<>\"')\]]+|(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}\.[\w.-]{0,190}\w", flags=re.IGNORECASE
)


class LinkFilter:
    """Every URL and e-mail address of a written text must stand in a given one."""

    def __call__(self, candidate: Candidate) -> Verdict:
        given = "\n".join(candidate.given).casefold()
        for text in candidate.written:
            for address in _ADDRESS.findall(text):
                if address.rstrip(".,;:!?").casefold() not in given:
                    return Reason("invented_address", address[:200])
        return True
