"""Random models of a few thousand parameters with a byte-level BPE tokenizer, made on the spot.

python -m tests.tiny DIRECTORY   writes one (recipes/tiny).
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

_TRAINING_TEXT = [
    "Return the number of items in the list. The quick brown fox jumps over the lazy dog.",
    "def add(a, b): return a + b  # Instruct: Query: given a web search query retrieve relevant passages",
    "Wie viele Einwohner hat Berlin? 北京是中国的首都。 Le chat dort sur le canapé.",
]
_SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_tiny_model_directory(
    path: Path, *, family: str = "qwen3", num_layers: int = 2, seed: int = 0, hidden_size: int = 32
) -> Path:
    """Writes a random fp32 model directory: bare backbone, no EOS in the tokenizer's post-processor (as Qwen3's)."""
    path.mkdir(parents=True, exist_ok=True)
    vocabulary_size = make_tiny_tokenizer(path)
    config = tiny_config(family, vocabulary_size, num_layers, hidden_size)
    from transformers import AutoModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():  # the default init of 0.02 makes every text look alike
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(path)
    return path


def tiny_config(family: str, vocabulary_size: int, num_layers: int, hidden_size: int):  # type: ignore[no-untyped-def]
    from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen3Config

    common = {
        "vocab_size": vocabulary_size,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden_size // 4,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    if family == "gemma3":
        return Gemma3TextConfig(**common, sliding_window=16, query_pre_attn_scalar=hidden_size // 4)
    families = {"qwen3": Qwen3Config, "llama": LlamaConfig, "mistral": MistralConfig}
    return families[family](**common)


def make_tiny_tokenizer(path: Path) -> int:
    """Trains a byte-level BPE on three lines and saves it; returns the vocabulary size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=_SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TRAINING_TEXT, trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "Qwen2Tokenizer",
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "model_max_length": 1024,
                "add_bos_token": False,
            }
        )
    )
    return tokenizer.get_vocab_size()


def make_tiny_causal_lm_directory(
    path: Path, *, family: str = "qwen3", tied: bool = True, num_layers: int = 2, seed: int = 0
) -> Path:
    """A random fp32 causal language model whose tokenizer has yes and no as tokens."""
    path.mkdir(parents=True, exist_ok=True)
    make_tiny_tokenizer(path)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.save_pretrained(path)
    config = tiny_config(family, len(tokenizer), num_layers, 32)
    config.tie_word_embeddings = tied
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(path)
    return path


if __name__ == "__main__":
    print(f"tiny model: {make_tiny_model_directory(Path(sys.argv[1]))}")
