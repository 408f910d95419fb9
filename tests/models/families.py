"""Tiny random models of many transformers families.

python -m tests.models.families   writes docs/families.md: how each family reads several texts at once.
"""

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.tiny import make_tiny_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
TEXTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 0], [9, 10, 0], [*range(20, 60), 0], [3, 4, 0], [9, 11, 0]]

_COMMON: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024, "tie_word_embeddings": True,
    "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2}
_MOE = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
_DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
_WINDOW = {"sliding_window": 8}
_GEMMA = _WINDOW | {"query_pre_attn_scalar": 8}
_GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4}
_SSM = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}

# Name -> configuration class, its settings; those of _COMMON are added where the class has them.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2, Qwen2.5": ("Qwen2Config", {}),
    "Qwen2 with windows": ("Qwen2Config", _WINDOW | {"use_sliding_window": True, "max_window_layers": 2}),
    "Qwen3": ("Qwen3Config", {}),
    "Qwen3 MoE": ("Qwen3MoeConfig", _MOE),
    "Qwen3-Next": ("Qwen3NextConfig", _MOE | _DELTA | {"shared_expert_intermediate_size": 32}),
    "Qwen3.5": ("Qwen3_5TextConfig", _DELTA),
    "Llama 2, 3": ("LlamaConfig", {}),
    "Mistral": ("MistralConfig", _WINDOW),
    "Ministral": ("MinistralConfig", _WINDOW),
    "Gemma": ("GemmaConfig", {}),
    "Gemma 2": ("Gemma2Config", _GEMMA),
    "Gemma 3": ("Gemma3TextConfig", _GEMMA),
    "EmbeddingGemma": ("Gemma3TextConfig", _GEMMA | {"use_bidirectional_attention": True}),
    "Phi-3, Phi-4": ("Phi3Config", _WINDOW),
    "Phi-1, Phi-2": ("PhiConfig", {}),
    "OLMo 2": ("Olmo2Config", {}),
    "Granite": ("GraniteConfig", {"embedding_multiplier": 3.0, "residual_multiplier": 0.5}),
    "SmolLM3": ("SmolLM3Config", {}),
    "Cohere": ("CohereConfig", {}),
    "GPT-NeoX, Pythia": ("GPTNeoXConfig", {}),
    "GPT-2": ("GPT2Config", _GPT | {"n_positions": 1024}),
    "OPT": ("OPTConfig", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "BLOOM": ("BloomConfig", {"n_layer": 4, "n_head": 4}),
    "Falcon (ALiBi)": ("FalconConfig", {"alibi": True}),
    "MPT": ("MptConfig", {"d_model": 32, "n_layers": 4, "n_heads": 4, "max_seq_len": 1024}),
    "GPT-J": ("GPTJConfig", _GPT | {"rotary_dim": 8, "n_positions": 1024}),
    "Mamba": ("MambaConfig", {"state_size": 8}),
    "Mamba 2": ("Mamba2Config", {"state_size": 8, "num_heads": 8, "n_groups": 2, "expand": 2, "chunk_size": 16}),
    "LFM2": (
        "Lfm2Config",
        {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},
    ),
    "Falcon-H1": ("FalconH1Config", _SSM | {"mamba_d_ssm": 32, "mamba_n_heads": 4}),
    "Granite 4 hybrid": (
        "GraniteMoeHybridConfig",
        _SSM
        | {"layer_types": ["mamba", "attention"] * 2, "num_local_experts": 0, "shared_intermediate_size": 64}
        | {"position_embedding_type": "rope"},
    ),
    "RecurrentGemma": ("RecurrentGemmaConfig", {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 16}),
    "gpt-oss": ("GptOssConfig", _WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "GLM-4": ("Glm4Config", {}),
    "ERNIE 4.5": ("Ernie4_5Config", {}),
    "EXAONE 4": ("Exaone4Config", _WINDOW | {"sliding_window_pattern": 2}),
    "Llama 4": (
        "Llama4TextConfig",
        {"num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 64, "attention_chunk_size": 8}
        | {"interleave_moe_layer_step": 1},
    ),
    "DeepSeek-V3": (
        "DeepseekV3Config",
        {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
        | {"n_shared_experts": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
        | {"v_head_dim": 8, "head_dim": 4, "first_k_dense_replace": 1, "num_key_value_heads": 4},
    ),
    "Nemotron": ("NemotronConfig", {}),
    "StableLM": ("StableLmConfig", {}),
    "StarCoder2": ("Starcoder2Config", _WINDOW),
    "ModernBERT decoder": ("ModernBertDecoderConfig", {"local_attention": 8, "cls_token_id": 0, "sep_token_id": 2}),
    "BERT": ("BertConfig", {}),
    "ModernBERT": ("ModernBertConfig", {"local_attention": 8, "cls_token_id": 0, "sep_token_id": 2}),
    "XLM-RoBERTa": ("XLMRobertaConfig", {}),
    "T5": ("T5Config", {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 4, "d_kv": 8}),
}
# Their own names for the sizes; the common ones would be aliases or unknown.
_OWN_SIZES = {"GPT2Config", "BloomConfig", "MptConfig", "GPTJConfig", "T5Config"}


def make_family(name: str, path: Path) -> Path:
    """Writes a random float32 model directory of a family."""
    class_name, settings = FAMILIES[name]
    path.mkdir(parents=True, exist_ok=True)
    common = dict(_COMMON) if class_name not in _OWN_SIZES else dict(_SPECIAL)
    if class_name == "BloomConfig":
        common["hidden_size"] = 32
    if class_name == "T5Config":
        common["decoder_start_token_id"] = 0
    if class_name == "FalconConfig":
        del common["num_key_value_heads"], common["head_dim"]
    config = getattr(transformers, class_name)(**{**common, "vocab_size": make_tiny_tokenizer(path), **settings})
    save_random_model(transformers.AutoModel, config, path)
    return path


def save_random_model(auto_class: Any, config: Any, path: Path) -> None:
    """Writes config and drawn weights, large enough that texts differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto_class.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(path)


def states_of_each_alone(path: Path) -> torch.Tensor:
    """transformers' own state at the end of each text, without padding."""
    model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1:] for ids in TEXTS])


def how_it_is_read(path: Path) -> tuple[str, str]:
    """ "packed", "padded" or "refused", and the reason."""
    from qwen3emb_train.models.loading import ModelConfig, load_encoder

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            model = load_encoder(ModelConfig(path=str(path)))
    except ValueError as error:
        return "refused", str(error).removeprefix(f"model.path {path}: ")
    if model.config._attn_implementation == "packed":
        return "packed", ""
    return "padded", said.getvalue().partition(" (")[2].partition("); model.attention")[0]


def page() -> str:
    """The whole of docs/families.md."""
    lines = [
        "# Model families",
        "",
        "Every program that loads a model encodes three short texts with it, together and each alone. Packing is used",
        "where both give the same states; else padded batches, reported in one line; else the model is refused.",
        "Neither is a setting of yours; `model.attention=padded` only asks for padding where packing would do.",
        "",
        "Below, what tiny random models of each family get. Written by `python -m tests.models.families`; a test",
        "compares every row, and every model's vectors with transformers' own.",
        "",
        "| Family | Is read | Because |",
        "|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as directory:
        for number, name in enumerate(FAMILIES):
            how, why = how_it_is_read(make_family(name, Path(directory) / str(number)))
            lines.append(f"| {name} | {how} | {why.replace('|', '/')} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
