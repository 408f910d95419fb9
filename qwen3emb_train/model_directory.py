"""What a model directory is: the names of its files and modules, and the words for its pooling.

Hugging Face's layout, and for exports that of Sentence-Transformers.
"""

import re
from pathlib import Path

STEP_DIRECTORY = re.compile(r"step_(\d{6,})")  # of a training run's checkpoints

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip

POOLING_PATH, NORMALIZE_PATH = "1_Pooling", "2_Normalize"
LAST_TOKEN = "lasttoken"
# The old booleans are pooling_mode_NAME; the new key pooling_mode holds a shorter name for some of them.
POOLING_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", LAST_TOKEN)
OLD_POOLING_NAMES = {
    "cls": "cls_token",
    "mean": "mean_tokens",
    "max": "max_tokens",
    "weightedmean": "weightedmean_tokens",
}


def step_directory(parent: Path, step: int) -> Path:
    return parent / f"step_{step:06d}"
