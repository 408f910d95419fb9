"""The text templates of the recipe: the only copy.

The released code, the evaluation template and the exported prompts all write ``Instruct: {task}\\nQuery:{query}`` with
no space after ``Query:``; the report's prose shows ``{Instruction} {Query}`` (section 2). We follow the code.
Documents carry no instruction.
"""

from enum import Enum

QUERY_TEMPLATE = "Instruct: {instruction}\nQuery:{query}"

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""The card's default task."""


def format_query(instruction: str | None, query: str) -> str:
    """The text that is tokenised for a query; without an instruction, the bare query."""
    if not instruction:
        return query
    return query_prompt(instruction) + query


def query_prompt(instruction: str) -> str:
    """What stands before the query: the Sentence-Transformers prompt of this instruction."""
    return QUERY_TEMPLATE.format(instruction=instruction, query="")


# The reranker reads one chat in which the model is about to answer "yes" or "no" (arXiv 2506.05176, section 2; the
# released example writes exactly these characters, the empty think block included). Prefix and suffix are tokenised by
# themselves and never cut; what is too long is cut from the body.
RERANKER_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
RERANKER_BODY = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
RERANKER_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
RERANKER_ANSWERS = ("yes", "no")


def reranker_body(instruction: str, query: str, document: str) -> str:
    """The user's turn: what is judged."""
    return RERANKER_BODY.format(instruction=instruction, query=query, document=document)


def reranker_text(instruction: str, query: str, document: str) -> str:
    """The whole text, after which the model says yes or no."""
    return RERANKER_PREFIX + reranker_body(instruction, query, document) + RERANKER_SUFFIX


class Template(str, Enum):
    """How the texts of an example become what is tokenised.

    ``embedding``: the query with its instruction, the bare documents. ``reranking``: the query alone, and for each
    document the whole body that is judged.
    """

    embedding = "embedding"
    reranking = "reranking"

    @property
    def text(self) -> str:
        """Version the token store by this: a changed template must not reuse old ids."""
        return QUERY_TEMPLATE if self is Template.embedding else RERANKER_BODY
