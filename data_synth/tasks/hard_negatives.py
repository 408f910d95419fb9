"""Documents that look relevant to a query and do not answer it, written by the teacher in a further call.

They are optional: if this call gives nothing usable, the row is kept without negatives and its facts record the reason.
"""

from collections.abc import Generator
from typing import Any

from data_synth.documents import Passage
from data_synth.languages import language_name
from data_synth.parsing import parse_reply
from data_synth.prompts import Prompt, load_prompt
from data_synth.schemas import object_schema, texts
from data_synth.tasks.items import SamplingConfig, build_request
from data_synth.work import Rejected, Reply, Request, WorkItem


class HardNegatives:
    """The call; none if ``num`` is 0.

    Args:
        num: negatives per query.
        sampling: of the call.
        directory: of templates; None for the shipped ones.
        prompt: template of the call.
    """

    def __init__(
        self, num: int, sampling: SamplingConfig, directory: str | None, prompt: str = "hard_negatives/generate"
    ) -> None:
        self._num = num
        self._sampling = sampling
        self._prompt = load_prompt(prompt, directory)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """Prompts that are part of an item's key."""
        return (self._prompt,) if self._num else ()

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that are part of an item's key."""
        return {"num_hard_negatives": self._num}

    def write(
        self, item: WorkItem, passage: Passage, query: str, facts: dict[str, Any]
    ) -> Generator[Request, Reply, tuple[str, ...]]:
        """Requests the negatives of a query.

        Args:
            item: that the call belongs to.
            passage: the positive.
            query: written for it.
            facts: of the row; the number of negatives, or the reason for none, is added.
        """
        if not self._num:
            return ()
        schema = object_schema(Hard_Negatives=texts(self._num))
        language = f"the programming language {passage.code}" if passage.code else language_name(passage.language)
        values = {"passage": passage.text, "query": query, "num": self._num, "language": language}
        answer = parse_reply(
            (yield build_request(self._prompt, values, schema, self._sampling, item)), schema, lines=("Hard_Negatives",)
        )
        if isinstance(answer, Rejected):
            facts |= {"num_hard_negatives": 0, "hard_negatives_rejected": answer.reason}
            return ()
        taken = {_normal(query), _normal(passage.text)}
        negatives = [text for text in dict.fromkeys(answer["Hard_Negatives"]) if _normal(text) not in taken]
        facts["num_hard_negatives"] = len(negatives)
        return tuple(negatives)


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()
