"""The text templates of the recipe: the only copy.

The released code, the evaluation template and the exported prompts all write ``Instruct: {task}\\nQuery:{query}`` with
no space after ``Query:``; the report's prose shows ``{Instruction} {Query}`` (paper-facts 1.3). We follow the code.
Documents carry no instruction.
"""

QUERY_TEMPLATE = "Instruct: {instruction}\nQuery:{query}"
"""Version the token store by this text: a changed template must not reuse old ids."""

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
