r"""Back-slashes that a reply did not double are put back, or the reply is rejected."""

import json

import pytest

from data_synth.backslashes import mend
from data_synth.parsing import parse_reply
from data_synth.schemas import object_schema, text, texts
from data_synth.work import Rejected, Reply

QUERY = object_schema(Query=text())


def query(written: str) -> str | None:
    """What is taken from a reply with this between the quotes; None if it is rejected."""
    found = parse_reply(Reply(f'{{"Query": "{written}"}}'), QUERY)
    return None if isinstance(found, Rejected) else found["Query"]


@pytest.mark.parametrize(
    "written",
    [
        r"angle \theta and \nabla f", r"3\times 4, \nu, \neq 0", r"\frac{a}{b} + \beta + \rho",
        r"\tau \to \tan x \not= y",
        r"\alpha \sum \underline{x} \upsilon", r"\text{if} \textbf{b} \ni \ne", r"\begin{x}\right)\forall y\bar z",
        r"the regex \bword\b \d+ \w", r"\tfrac12 \triangle \natural \newline",
    ],
)  # fmt: skip
def test_single_backslashes_come_back(written: str) -> None:
    assert query(written) == written
    assert query(written.replace("\\", "\\\\")) == written, "and doubled ones are what they were"


@pytest.mark.parametrize(
    "written", [r"C:\temp\list", r"C:\new\data", r"a\tb", r"x\u0008y", r"\u0000", "lost \ufffd here"]
)
def test_what_cannot_be_told_is_rejected(written: str) -> None:
    assert query(written) is None


def test_line_ends_in_a_text_of_one_line_are_spaces() -> None:
    assert query("how does\nit") == query(r"how does\nit") == query(r"how does \r\n it") == "how does it"


def test_texts_of_several_lines_keep_their_lines_and_indentation() -> None:
    code = "if ext:\n\ttext := 1\n\t\ttag = 2\nnu = 3\nnot x"
    assert mend(code, is_one_line=False) == code
    assert mend("uno\ne due", is_one_line=False) == "uno\ne due"
    assert mend("where \nu = \x0crac12", is_one_line=False) == r"where \nu = \frac12"
    schema = object_schema(Many=texts(1))
    reply = Reply(json.dumps({"Many": ["a\n\tb"]}))
    assert parse_reply(reply, schema, lines=("Many",)) == {"Many": ["a\n\tb"]}
    assert isinstance(parse_reply(reply, schema), Rejected)
