"""Scores of documents for queries by a yes/no reranker: packed, with the shared prefix of a query's prompts read once.

All prompts of a query start with the same system turn, instruction and query. They are encoded together, with that
prefix once (``data.prefixes``), which is exact under causal attention. For mining, evaluation and search.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, RERANKER_ANSWERS, reranker_text
from qwen3emb_train.data.prefixes import share_prefixes
from qwen3emb_train.data.reranker_tokens import RerankerTokenizer, load_reranker_tokenizer
from qwen3emb_train.data.tokenization import load_fast_tokenizer, refuse_missing_directory
from qwen3emb_train.index.model_files import model_file, model_json
from qwen3emb_train.index.query_prompts import report_difference
from qwen3emb_train.model_directory import PROMPTS_FILE, Prompts
from qwen3emb_train.models.limits import require_rows_for
from qwen3emb_train.models.loading import ModelConfig, load_reranker
from qwen3emb_train.models.precision import Precision, autocast, resolve_device, resolve_precision
from qwen3emb_train.models.reranker import AnswerLogits, YesNoReranker

_PROMPTS_IN_MEMORY = 4096  # as Python lists of ids, which take some 40 bytes per token


class TextReranker:
    """A reranker with its tokenizer, for inference.

    Attributes:
        reranker, tokenizer: the parts.
        instruction: the default instruction.
        trained: the instructions that the model records; None: not known.
        max_tokens: maximum tokens of a prompt, template included; longer ones are truncated at the document's end.
    """

    def __init__(
        self,
        reranker: YesNoReranker,
        tokenizer: RerankerTokenizer,
        *,
        trained: Prompts | None = None,
        max_tokens: int = 8192,
        precision: Precision = Precision.auto,
        device: str = "auto",
    ) -> None:
        """
        Args:
            reranker, tokenizer: the parts.
            trained: what the model records; its default is the default instruction.
            max_tokens: maximum tokens of a prompt.
            precision: of matrix products.
            device: "auto" is CUDA where there is one, else the CPU.

        Raises:
            ValueError: ``max_tokens`` leaves no room for a document.
        """
        tokenizer.max_body_tokens(max_tokens)  # refuses too low a limit
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.reranker = reranker.to(self.device).eval()
        self.tokenizer = tokenizer
        self.trained = trained
        self.instruction = own_instruction(trained)
        self.max_tokens = max_tokens

    @staticmethod
    def load(
        path: str,
        *,
        num_layers: int | None = None,
        max_tokens: int = 8192,
        precision: str = "auto",
        device: str = "auto",
    ) -> "TextReranker":
        """Loads a causal language model: a checkpoint's ``model/``, a merge, an export, a hub name.

        The instruction that the model was trained with is the default one; an export's own limit and the model's
        positions apply where they are lower.

        Args:
            path: the directory or name.
            num_layers: keep only the first layers; None = all.
            max_tokens, precision, device: as in the constructor.

        Raises:
            FileNotFoundError: nothing loadable at ``path``.
            ValueError: another kind of model (see ``is_yes_no_reranker``), or a damaged one; no room for a document.
        """
        require_yes_no_reranker(path)
        tokenizer = load_reranker_tokenizer(path)
        reranker = load_reranker(ModelConfig(path=path, num_layers=num_layers), tokenizer.answer_ids)
        require_rows_for(tokenizer.hf, reranker.backbone, path)
        limits = [max_tokens, getattr(reranker.config, "max_position_embeddings", None) or max_tokens]
        if model_file(path, "modules.json") is not None:
            limits.append(tokenizer.hf.model_max_length)
        return TextReranker(
            reranker,
            tokenizer,
            trained=Prompts.of(model_json(path, PROMPTS_FILE)),
            max_tokens=min(limits),
            precision=Precision(precision),
            device=device,
        )

    def report(self, model: str, settings: Mapping[str, str | None]) -> None:
        """Logs where settings differ from training, as ``QueryPrompts.report``.

        Args:
            model: its name, for the message.
            settings: key -> its instruction; None or "": the reranker's own.
        """
        trained = None if self.trained is None else [self.instruction, *self.trained.of_queries]
        report_difference(model, trained, {key: instruction or None for key, instruction in settings.items()})

    def score(
        self, query: str, documents: Sequence[str], instruction: str | None = None, *, tokens_per_batch: int = 8192
    ) -> Float[Tensor, " documents"]:
        """``logit(yes) - logit(no)`` of each document.

        Args:
            query, documents: texts.
            instruction, tokens_per_batch: as in ``score_groups``.
        """
        return self.score_groups([query], [documents], instruction, tokens_per_batch=tokens_per_batch)[0]

    @torch.inference_mode()
    def score_groups(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str]],
        instruction: str | None = None,
        *,
        tokens_per_batch: int = 8192,
    ) -> list[Float[Tensor, " documents"]]:
        """``logit(yes) - logit(no)`` of each query's documents, float32 on the CPU, in their order.

        Its sigmoid is the score of the report (arXiv 2506.05176, section 2). A query's repeated documents are read
        once, so that equal documents have exactly equal scores.

        Args:
            queries: texts.
            documents: those of each query.
            instruction: the task; None or "": the reranker's own, since its template always has one.
            tokens_per_batch: tokens encoded at once, a shared prefix counted once. A longer prompt is a batch of its
                own.
        """
        assert len(queries) == len(documents), "each query has a list of documents"
        task = instruction or self.instruction
        scores = [torch.empty(0)] * len(queries)
        for some in _memory_loads(documents):
            texts = {query: list(dict.fromkeys(documents[query])) for query in some}
            prompts = {
                query: self.tokenizer.tokenize(task, queries[query], its_texts, self.max_tokens)
                for query, its_texts in texts.items()
            }
            found: dict[tuple[int, str], float] = {}
            for chunk in chunk_groups(prompts, tokens_per_batch, is_shared=self.reranker.shares_prefixes):
                for (query, number), score in zip(chunk, self._score(chunk, prompts).tolist(), strict=True):
                    found[query, texts[query][number]] = score
            for query in some:
                scores[query] = torch.tensor([found[query, text] for text in documents[query]])
        return scores

    def _score(self, chunk: list[tuple[int, int]], prompts: dict[int, list[list[int]]]) -> Float[Tensor, " documents"]:
        tokens = PackedTokens.from_lists([prompts[query][document] for query, document in chunk])
        if self.reranker.shares_prefixes:
            tokens = share_prefixes(tokens, torch.tensor([query for query, _ in chunk]))
        with autocast(self.precision, self.device):
            return AnswerLogits.of(self.reranker(tokens.to(self.device))).score.float().cpu()


def chunk_groups(
    prompts: dict[int, list[list[int]]], tokens_per_chunk: int, *, is_shared: bool = True
) -> list[list[tuple[int, int]]]:
    """Divides prompts into chunks by token budget, those of a query together where they fit into one chunk.

    Longest first, so that what does not fit into memory fails at once, and prompts of similar length share a chunk. A
    query that is too large for one chunk is spread over several, each of which reads the shared prefix once.

    Args:
        prompts: query -> the ids of each of its prompts.
        tokens_per_chunk: the budget.
        is_shared: whether shared prefixes are read once.

    Returns:
        Of each chunk the (query, prompt) pairs; every prompt occurs exactly once.

    Raises:
        ValueError: ``tokens_per_chunk`` is below 1.
    """
    if tokens_per_chunk < 1:
        raise ValueError(f"tokens_per_batch is {tokens_per_chunk}; it must be at least 1 (a usual value is 8192).")
    chunks: list[list[tuple[int, int]]] = [[]]
    free = tokens_per_chunk
    for query in sorted(prompts, key=lambda query: -max(map(len, prompts[query]), default=0)):
        lengths = list(map(len, prompts[query]))
        common = _num_common(prompts[query]) if is_shared and lengths else 0
        if common + sum(length - common for length in lengths) > free:
            chunks.append([])
            free = tokens_per_chunk
        is_first = True
        for number in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
            if lengths[number] - (0 if is_first else common) > free and chunks[-1]:
                chunks.append([])
                free, is_first = tokens_per_chunk, True
            chunks[-1].append((query, number))
            free -= lengths[number] - (0 if is_first else common)
            is_first = False
    return [chunk for chunk in chunks if chunk]


def _num_common(prompts: list[list[int]]) -> int:
    """Length of the longest common prefix: that of the lexicographically first and last prompt."""
    first, last = min(prompts), max(prompts)
    return next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))


def _memory_loads(documents: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """Groups of queries whose prompts are in memory at once; those with long documents first."""
    some: list[int] = []
    num_prompts = 0
    for query in sorted(range(len(documents)), key=lambda query: -max(map(len, documents[query]), default=0)):
        if some and num_prompts + len(documents[query]) > _PROMPTS_IN_MEMORY:
            yield some
            some, num_prompts = [], 0
        some.append(query)
        num_prompts += len(documents[query])
    if some:
        yield some


def is_yes_no_reranker(path: str) -> bool:
    """Whether ``TextReranker`` scores as the model directory (or hub model) specifies.

    True for a plain causal language model. An export for Sentence-Transformers must have our template, score by the
    logits of yes and no, and apply no activation to their difference.
    """
    refuse_missing_directory(path)
    if model_file(path, "modules.json") is None:
        return str(((model_json(path, "config.json") or {}).get("architectures") or [""])[0]).endswith("ForCausalLM")
    answers = model_json(path, "1_LogitScore/config.json")
    exported = model_json(path, "config_sentence_transformers.json") or {}
    if answers is None or not str(exported.get("activation_fn")).endswith(".Identity"):
        return False
    hf = load_fast_tokenizer(path)
    yes, no = hf.convert_tokens_to_ids(list(RERANKER_ANSWERS))
    return (answers.get("true_token_id"), answers.get("false_token_id")) == (yes, no) and _has_our_template(hf)


def require_yes_no_reranker(path: str) -> None:
    """Refuses other kinds of models.

    Raises:
        FileNotFoundError: nothing at ``path``.
        ValueError: not a yes/no reranker (see ``is_yes_no_reranker``).
    """
    if not is_yes_no_reranker(path):
        raise ValueError(
            f"{path}: not a yes/no reranker. It must be a causal language model (its config.json names a "
            "...ForCausalLM), or an export of one with Qwen3-Reranker's template and plain logits."
        )


def _has_our_template(hf: Any) -> bool:
    from jinja2 import TemplateError

    parts = {"system": "{task}", "query": "a\n", "document": " b "}
    messages = [{"role": role, "content": part} for role, part in parts.items()]
    try:
        rendered = hf.apply_chat_template(messages, tokenize=False) if hf.chat_template else None
    except TemplateError:  # made for other roles
        return False
    return bool(rendered == reranker_text(*parts.values()))


def own_instruction(trained: Prompts | None) -> str:
    """The instruction that is used unasked; the default one where a reranker records none."""
    return (trained.by_name.get(trained.default_name or "") if trained else None) or DEFAULT_INSTRUCTION
