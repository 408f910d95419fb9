"""The stage ``train_reranker``: supervised fine-tuning of a causal language model that answers yes or no."""

from pathlib import Path

from qwen3emb_train.data.batches import RerankingBatch
from qwen3emb_train.data.instructions import Template
from qwen3emb_train.data.reranker_tokens import RerankerTokenizer, load_reranker_tokenizer
from qwen3emb_train.data.training_data import DataSettings, TrainingData, open_reranking_data
from qwen3emb_train.models.loading import load_reranker
from qwen3emb_train.models.reranker import YesNoReranker
from qwen3emb_train.training.config import TrainRerankerConfig as TrainRerankerConfig  # re-exported
from qwen3emb_train.training.engines.engine import Engine
from qwen3emb_train.training.reranking_objective import RerankingObjective
from qwen3emb_train.training.stage import Stage, run_stage


def train_reranker(config: TrainRerankerConfig) -> Path:
    """Runs the stage, continues it, or finds it done; see ``stage.run_stage``."""
    return run_stage(RerankerStage(config))


class RerankerStage(Stage):
    """A ``YesNoReranker`` under a reranking loss."""

    program = "train_reranker"
    template = Template.reranking
    config: TrainRerankerConfig

    def check(self) -> None:
        if self.config.model.bidirectional:
            raise ValueError(
                "model.bidirectional=true: a reranker answers as a causal language model. Set it to false."
            )

    def load_tokenizer(self) -> RerankerTokenizer:
        model = self.config.model
        return load_reranker_tokenizer(model.path, trust_remote_code=model.trust_remote_code)

    def open_data(self, tokenizer: RerankerTokenizer, settings: DataSettings) -> TrainingData[RerankingBatch]:
        config = self.config
        return open_reranking_data(
            settings, tokenizer, config.false_negatives, max_tokens=config.max_tokens,
            max_positives=config.max_positives, max_negatives=config.max_negatives,
        )  # fmt: skip

    def load_model(self, tokenizer: RerankerTokenizer, *, unread: bool = False) -> YesNoReranker:
        config = self.config
        return load_reranker(
            config.model, tokenizer.answer_ids, over_vocabulary=config.loss.needs_vocabulary, unread=unread
        )

    def text_limits(self) -> dict[str, int]:
        return {"max_tokens": self.config.max_tokens}

    def build_objective(self, engine: Engine) -> RerankingObjective:
        return RerankingObjective(engine, self.config.loss, self.config.tokens_per_chunk)
