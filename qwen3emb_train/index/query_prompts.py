"""What stands before a query by default: what the model was trained with, as its directory records it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, instruction_of, query_prompt
from qwen3emb_train.index.model_files import model_file, model_json
from qwen3emb_train.model_directory import DOCUMENT, PROMPTS_FILE, Prompts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueryPrompts:
    """Of an embedding model of any kind.

    Attributes:
        model: the directory or name, for messages.
        trained: what the model records; None: nothing, as hub base models.
        takes_instructions: False: a Sentence-Transformers model without a query prompt, which is compared as it was
            published, whatever the instruction. Our own model directories take any.
    """

    model: str
    trained: Prompts | None
    takes_instructions: bool

    @staticmethod
    def of(model: str) -> "QueryPrompts":
        trained = Prompts.of(model_json(model, PROMPTS_FILE))
        if model_file(model, "modules.json") is None:
            return QueryPrompts(model, trained, takes_instructions=True)
        trained = trained or Prompts({})
        return QueryPrompts(model, trained, takes_instructions=bool(trained.query))

    @property
    def own(self) -> str:
        """What stands before a query where no instruction is set."""
        return query_prompt(DEFAULT_INSTRUCTION) if self.trained is None else self.trained.query

    @property
    def of_documents(self) -> str:
        return "" if self.trained is None else self.trained.by_name.get(DOCUMENT) or ""

    @property
    def is_bare(self) -> bool:
        """Whether the model was trained on bare queries alone."""
        return self.trained is not None and not any(self.trained.of_queries)

    def prompt(self, instruction: str | None) -> str:
        """What stands before a query; None: the model's own, "": nothing."""
        if instruction is None:
            return self.own
        return query_prompt(instruction) if instruction and self.takes_instructions else ""

    def report(self, settings: Mapping[str, str | None]) -> None:
        """Logs, a line each, where settings differ from training.

        Args:
            settings: key -> its instruction; None: not set.
        """
        given = {key: instruction for key, instruction in settings.items() if instruction is not None}
        if self.takes_instructions:
            known = None if self.trained is None else [shown(prompt) for prompt in self.trained.of_queries]
            report_difference(self.model, known, settings)
            return
        for key, instruction in given.items():
            if instruction:
                logger.warning(
                    "%s is ignored: %s has no query prompt, so its queries stay bare.", key, self.model
                )  # fmt: skip


def report_difference(model: str, trained: Sequence[str] | None, settings: Mapping[str, str | None]) -> None:
    """Logs a line for each setting that is none of the trained instructions, and one where the default stands in.

    Args:
        model: for the message.
        trained: instructions, the usual one first; None: not known.
        settings: key -> its instruction; None: not set.
    """
    if trained is None:
        if unset := [key for key, instruction in settings.items() if instruction is None]:
            logger.warning(
                "%s does not say what it was trained with: queries carry the default instruction %r (%s=null).",
                model, DEFAULT_INSTRUCTION, unset[0],
            )  # fmt: skip
        return
    for key, instruction in settings.items():
        if instruction is not None and instruction not in trained:
            logger.warning(
                "instruction differs from training: %s is %s, %s was trained with %s.",
                key, _words(instruction), model, _words(trained[0]),
            )  # fmt: skip


def shown(prompt: str) -> str:
    """The instruction of a prompt; the prompt itself where it is not of our template."""
    instruction = instruction_of(prompt)
    return prompt if instruction is None else instruction


def _words(instruction: str) -> str:
    return repr(instruction) if instruction else "none (bare queries)"
