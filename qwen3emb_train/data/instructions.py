"""The text templates, defined only here.

The released code, the evaluation template and the exported prompts all write ``Instruct: {task}\\nQuery:{query}`` with
no space after ``Query:``; the report (arXiv 2506.05176, section 2) shows ``{Instruction} {Query}``. We follow the code.
Documents have no instruction.
"""

from enum import Enum

QUERY_TEMPLATE = "Instruct: {instruction}\nQuery:{query}"
TEMPLATE_START = QUERY_TEMPLATE.partition("{")[0].rstrip()  # "Instruct:"

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""The default task of the Qwen/Qwen3-Embedding model cards."""


def format_query(instruction: str | None, query: str) -> str:
    """The text that is tokenised for a query; without an instruction, the bare query."""
    if not instruction:
        return query
    return query_prompt(instruction) + query


def query_prompt(instruction: str) -> str:
    """The text before the query: the Sentence-Transformers prompt of this instruction."""
    return QUERY_TEMPLATE.format(instruction=instruction, query="")


def instruction_of(prompt: str) -> str | None:
    """The inverse of ``query_prompt``; "" for no prompt, None for one of another form ("query: ")."""
    before, after = query_prompt("{}").split("{}")
    if prompt.startswith(before) and prompt.endswith(after):
        return prompt[len(before) : -len(after)]
    return None if prompt else ""


def has_template(instruction: str) -> bool:
    """Whether the template is already around an instruction, and would be doubled."""
    return instruction.lstrip().startswith(TEMPLATE_START)


def refuse_template(key: str, instruction: str | None) -> None:
    """For every setting that holds an instruction; rows of data have the same refusal (``data.validation``).

    Raises:
        ValueError: the template is already around it; names the key.
    """
    if instruction and has_template(instruction):
        raise ValueError(
            f"{key} is {instruction!r}: it already contains the template that is added to it. Give only the sentence "
            f'that follows "{TEMPLATE_START}".'
        )


# The reranker's prompt is a chat whose next token is "yes" or "no". The characters are exactly those of the usage
# example of Qwen/Qwen3-Reranker, the empty think block included. Prefix and suffix are tokenised separately and never
# truncated; only the body is.
RERANKER_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
RERANKER_BODY = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
RERANKER_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
RERANKER_ANSWERS = ("yes", "no")


def reranker_body(instruction: str, query: str, document: str) -> str:
    """The user's turn of the prompt.

    Args:
        instruction, query, document: texts to fill in.
    """
    return RERANKER_BODY.format(instruction=instruction, query=query, document=document)


def reranker_text(instruction: str, query: str, document: str) -> str:
    """The whole prompt, to which the model answers yes or no.

    Args:
        instruction, query, document: texts to fill in.
    """
    return RERANKER_PREFIX + reranker_body(instruction, query, document) + RERANKER_SUFFIX


class Template(str, Enum):
    """Which texts of an example are tokenised.

    ``embedding``: the query with its instruction, the bare documents. ``reranking``: the query alone, and for each
    document the body of its prompt.
    """

    embedding = "embedding"
    reranking = "reranking"

    @property
    def text(self) -> str:
        """Part of the token store's key: a changed template must not reuse old ids."""
        return QUERY_TEMPLATE if self is Template.embedding else RERANKER_BODY
