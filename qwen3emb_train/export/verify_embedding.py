"""Checks of the folder of an embedding model, in order; later ones use what earlier ones loaded and computed."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from qwen3emb_train.data.tokenization import TextTokenizer
from qwen3emb_train.export import verify_files, verify_servers, verify_tokens, verify_vectors
from qwen3emb_train.export.checks import Checklist, Finding, NotApplicableError
from qwen3emb_train.export.samples import SAMPLE_TEXTS
from qwen3emb_train.export.verify_vectors import Encode, SentenceTransformersReader, Vectors
from qwen3emb_train.index.inference import TextEncoder

_EOS, _LOADS, _READS = "EOS token", "transformers loads it", "Sentence-Transformers = transformers"
PROMPTS_CHECK = "prompts applied once"


class EmbeddingFolder:
    """State of the checks of a folder.

    One model is in memory at a time: of the reference, of transformers, of Sentence-Transformers.

    Attributes:
        directory: the folder.
        max_tokens: its length limit.
        prompts: that it must have; None: not known.
        is_ours: whether it must satisfy the stricter checks of our exports.
        vectors: vectors of the sample texts, by reader.

    Args:
        directory, max_tokens, prompts: as above.
        reference: the model directory that was exported; None: not known.
    """

    def __init__(
        self, directory: Path, max_tokens: int, reference: Path | None, prompts: Mapping[str, str] | None
    ) -> None:
        self.directory, self.max_tokens, self.prompts = directory, max_tokens, prompts
        self.is_ours = reference is not None or prompts is not None
        self.vectors: dict[str, Vectors] = {}
        self._expected: Vectors | None = None
        self._reference_tokenizer: TextTokenizer | None = None
        self._encode: Encode | None = None
        self._reader: SentenceTransformersReader | None = None
        if reference is not None:
            trainer = TextEncoder.load(str(reference), max_tokens=max_tokens, precision="fp32")
            self._expected, self._reference_tokenizer = trainer.encode(SAMPLE_TEXTS), trainer.tokenizer

    def run(self, checklist: Checklist, weights: str, servers: Sequence[str]) -> None:
        """Runs the checks.

        Args:
            checklist: receives their results.
            weights: name of the check without which no model can be loaded.
            servers: inference servers whose vectors are compared, by name.
        """
        checklist.run("pooling", lambda: verify_files.check_pooling(self.directory, must_be_last=self.is_ours))
        checklist.run("tokenizer without per-call state", self._tokenizer_state)
        checklist.run(_EOS, self._eos_token)
        checklist.run("truncation keeps it", self._truncation, [_EOS])
        checklist.run(_LOADS, self._load_by_transformers, [weights])
        checklist.run("left padding = right = none", self._padding, [weights, _LOADS])
        checklist.run("different texts, different vectors", self._differences, [weights, _LOADS])
        self._encode = None
        checklist.run(_READS, self._load_by_sentence_transformers, [weights, _LOADS])
        checklist.run(PROMPTS_CHECK, self._prompts, [weights, _LOADS])
        checklist.run("length 1, cut or not", self._norms, [weights, _LOADS])
        if self._expected is not None:
            checklist.run("vectors of the reference", self._reference, [weights, _LOADS])
        for name in servers:
            checklist.run(f"vectors of {name}", partial(self._server, name), [weights, _LOADS])

    def _require_last_token(self) -> None:
        pooling = verify_files.pooling_of(self.directory)
        if pooling not in ("lasttoken", None):
            raise NotApplicableError(f"the folder pools by {pooling}, not by the last token")

    def _tokenizer_state(self) -> Finding:
        return verify_files.check_tokenizer_state(self.directory, must_be_free=self.is_ours)

    def _eos_token(self) -> Finding:
        self._require_last_token()
        return verify_tokens.check_eos_token(self._tokenizer(), self._reference_tokenizer)

    def _truncation(self) -> Finding:
        self._require_last_token()
        return verify_tokens.check_truncation(self._tokenizer())

    def _tokenizer(self) -> verify_tokens.FolderTokenizer:
        return verify_tokens.FolderTokenizer(self.directory, SAMPLE_TEXTS, self.max_tokens)

    def _load_by_transformers(self) -> Finding:
        self._encode = verify_vectors.encode_by_transformers(self.directory, self.max_tokens)
        return Finding("no tensor is missing or of another shape")

    def _padding(self) -> Finding:
        self._require_last_token()
        assert self._encode is not None
        finding = verify_vectors.check_padding(self._encode, SAMPLE_TEXTS)
        self.vectors["transformers"] = self._encode(SAMPLE_TEXTS)
        return finding

    def _differences(self) -> Finding:
        self._require_last_token()
        assert self._encode is not None
        return verify_vectors.check_differences(self._encode(SAMPLE_TEXTS), SAMPLE_TEXTS)

    def _load_by_sentence_transformers(self) -> Finding:
        self._reader = SentenceTransformersReader.load(self.directory, SAMPLE_TEXTS)
        self.vectors["Sentence-Transformers"] = self._reader.plain()
        return verify_vectors.check_sentence_transformers(self._reader, self.vectors.get("transformers"))

    def _loaded_reader(self) -> SentenceTransformersReader:
        if self._reader is None:
            raise NotApplicableError("Sentence-Transformers did not read the folder")
        return self._reader

    def _prompts(self) -> Finding:
        return verify_vectors.check_prompts(self._loaded_reader(), self.prompts)

    def _norms(self) -> Finding:
        return verify_vectors.check_norms(self._loaded_reader(), must_be_unit=self.is_ours)

    def _server(self, name: str) -> Finding:
        if "transformers" not in self.vectors:
            raise NotApplicableError("there are no vectors of transformers to compare with")
        check = {"vllm": verify_servers.check_vllm, "tei": verify_servers.check_tei}[name]
        return check(self.directory, SAMPLE_TEXTS, self.vectors["transformers"])

    def _reference(self) -> Finding:
        assert self._expected is not None
        return verify_vectors.check_reference(self.directory, self.vectors, self._expected)
