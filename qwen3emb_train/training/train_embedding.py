"""The stage ``train_embedding``: weakly supervised pretraining and supervised fine-tuning alike.

They differ in data, loss fields and model path.
"""

from pathlib import Path

from qwen3emb_train.data.batches import EmbeddingBatch
from qwen3emb_train.data.instructions import Template
from qwen3emb_train.data.tokenization import TextTokenizer, load_tokenizer
from qwen3emb_train.data.training_data import DataSettings, TrainingData, open_training_data
from qwen3emb_train.distributed import is_main_process
from qwen3emb_train.index.query_prompts import QueryPrompts
from qwen3emb_train.losses.by_task import loss_of_task
from qwen3emb_train.model_directory import Prompts
from qwen3emb_train.models.loading import load_encoder
from qwen3emb_train.models.text_model import Encoder
from qwen3emb_train.training.config import TrainEmbeddingConfig as TrainEmbeddingConfig  # re-exported
from qwen3emb_train.training.engines.engine import Engine
from qwen3emb_train.training.objectives import EmbeddingObjective
from qwen3emb_train.training.retrieval_validation import ValidationSet, open_validation_set
from qwen3emb_train.training.stage import Stage, run_stage


def train_embedding(config: TrainEmbeddingConfig) -> Path:
    """Runs the stage, continues it, or finds it done; see ``stage.run_stage``."""
    return run_stage(EmbeddingStage(config))


class EmbeddingStage(Stage):
    """An encoder under an embedding loss."""

    program = "train_embedding"
    template = Template.embedding
    config: TrainEmbeddingConfig

    def check(self) -> None:
        for source in (*self.config.data.values(), *self.config.validation_data.values()):
            loss_of_task(source.task, self.config.loss, self.config.task_losses)  # an unknown task is refused

    def load_tokenizer(self) -> TextTokenizer:
        model = self.config.model
        return load_tokenizer(model.path, model.eos_token, trust_remote_code=model.trust_remote_code)

    def open_data(self, tokenizer: TextTokenizer, settings: DataSettings) -> TrainingData[EmbeddingBatch]:
        return open_training_data(settings, tokenizer, self.config.lengths)

    def open_validation_sets(self, tokenizer: TextTokenizer, prompts: Prompts) -> dict[str, ValidationSet]:
        if is_main_process():
            given = {f"eval_sets.{name}.instruction": one.instruction for name, one in self.config.eval_sets.items()}
            QueryPrompts("the model", prompts, takes_instructions=True).report(given)
        return {
            name: open_validation_set(name, chosen, tokenizer, self.config.lengths, prompts.query)
            for name, chosen in self.config.eval_sets.items()
        }

    def load_model(self, tokenizer: TextTokenizer, *, unread: bool = False) -> Encoder:
        return load_encoder(self.config.model, unread=unread)

    def text_limits(self) -> dict[str, int]:
        return {f"lengths.{name}": limit for name, limit in vars(self.config.lengths).items()}

    def build_objective(self, engine: Engine) -> EmbeddingObjective:
        config = self.config
        return EmbeddingObjective(
            engine, config.loss, config.matryoshka_dims, config.tokens_per_chunk, config.retained_graph_tokens,
            config.task_losses,
        )  # fmt: skip
