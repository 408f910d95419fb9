"""Rejects texts with addresses that are not in the source: made up, or injected."""

import re

from data_synth.filters.candidates import Candidate, Reason, Verdict

# Bounded repetitions: a text of 100,000 letters must not cause a quadratic search.
_ADDRESS = re.compile(
    r"(?:https?://|www\.)[^\s<>\"')\]]+|(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}\.[\w.-]{0,190}\w", flags=re.IGNORECASE
)


class LinkFilter:
    """Each URL and e-mail address of a written text must occur in a given one."""

    def __call__(self, candidate: Candidate) -> Verdict:
        given = "\n".join(candidate.given).casefold()
        for text in candidate.written:
            for address in _ADDRESS.findall(text):
                if address.rstrip(".,;:!?").casefold() not in given:
                    return Reason("invented_address", address[:200])
        return True
