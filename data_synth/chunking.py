"""Splitting a document into passages: at section and sentence ends, code at its definitions.

A passage is filled with whole sentences up to a number of tokens. Tokens are estimated by a plain rule, the same on
every machine, or counted by a tokenizer of the user's choice.
"""

from data_synth.blocks import Block, markdown_blocks, split_block
from data_synth.code_chunks import chunk_code
from data_synth.sentences import sentences, split_sentences
from data_synth.tokens import TokenCounter, cut_anywhere, estimate_tokens, load_token_counter

__all__ = ["TokenCounter", "chunk_code", "chunk_text", "estimate_tokens", "load_token_counter", "sentences"]


def chunk_text(
    text: str, max_tokens: int, min_tokens: int, count: TokenCounter = estimate_tokens, is_markdown: bool = False
) -> list[str]:
    """Splits prose into passages at section and sentence ends, tables between rows, code between lines.

    A section begins a new passage unless the text before it is shorter than ``min_tokens``; a heading stands with what
    follows it. A table or code block longer than a passage continues under its header, or in a fence of its own. The
    tokens of a passage are the sum of its parts' tokens, which is exact for the estimate.

    Args:
        text: of a document.
        max_tokens: of a passage at most.
        min_tokens: of a passage at least; only the last one may be shorter.
        count: number of tokens of a text.
        is_markdown: indented lines are code.
    """
    packer = _Packer(max_tokens, count)
    for block in markdown_blocks(text, is_markdown):
        if block.kind == "heading" and packer.size >= min_tokens:
            packer.close()
        if block.kind in ("table", "code"):
            packer.add_block(block)
        else:
            for sentence in split_sentences(block.text):
                for part in cut_anywhere(sentence, max_tokens, count):
                    packer.add(part, block.kind)
    packer.close()
    return _join_short_tail(packer.chunks, max_tokens, min_tokens, count)


class _Packer:
    """Fills passages with parts, in order."""

    def __init__(self, max_tokens: int, count: TokenCounter) -> None:
        self.chunks: list[str] = []
        self.size = 0
        self._max_tokens, self._count = max_tokens, count
        self._parts: list[tuple[str, str]] = []

    def add(self, text: str, kind: str) -> None:
        tokens = self._count(text)
        if self._parts and self.size + tokens > self._max_tokens:
            self._close_before(tokens)
        self._parts.append((kind, text))
        self.size += tokens

    def add_block(self, block: Block) -> None:
        """A table or code: whole if a passage holds it, otherwise in pieces that can be read by themselves."""
        tokens = self._count(block.text)
        if tokens <= self._max_tokens:
            self.add(block.text, block.kind)
            return
        if self.size > self._max_tokens // 2:
            self._close_before(self._max_tokens // 2)
        for piece in split_block(block, self._max_tokens - self.size, self._max_tokens, self._count):
            self.add(piece, block.kind)

    def close(self) -> None:
        text = "".join(text for _, text in self._parts)
        starts_with_code = bool(self._parts) and self._parts[0][0] == "code"
        text = text.strip("\n").rstrip() if starts_with_code else text.strip()  # code keeps its first indentation
        if text:
            self.chunks.append(text)
        self._parts, self.size = [], 0

    def _close_before(self, tokens: int) -> None:
        """Ends the passage; headings at its end go on to the next one, where that has ``tokens`` more."""
        first = len(self._parts)
        while first and (self._parts[first - 1][0] == "heading" or not self._parts[first - 1][1].strip()):
            first -= 1
        tail = self._parts[first:]
        size = sum(self._count(text) for _, text in tail)
        if not first or size + tokens > self._max_tokens:
            tail, size = [], 0
        else:
            self._parts = self._parts[:first]
        self.close()
        self._parts, self.size = tail, size


def _join_short_tail(chunks: list[str], max_tokens: int, min_tokens: int, count: TokenCounter) -> list[str]:
    if len(chunks) > 1 and count(chunks[-1]) < min_tokens and count(chunks[-2]) + count(chunks[-1]) <= max_tokens:
        tail = chunks.pop()
        chunks[-1] += "\n\n" + tail
    return chunks
