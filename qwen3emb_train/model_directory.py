"""What a model directory is: its files and modules, the words for its pooling, and what stands before its texts.

Hugging Face's layout, and for exports that of Sentence-Transformers.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEP_DIRECTORY = re.compile(r"step_(\d{6,})")  # of a training run's checkpoints

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip

PROMPTS_FILE = "config_sentence_transformers.json"
QUERY, DOCUMENT = "query", "document"

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


@contextmanager
def reading_model(path: object) -> Iterator[None]:
    """A block in which another library reads a model directory: what a damaged file makes of it is one message.

    Libraries raise what comes along (a TypeError for a vocabulary that is no dictionary, a KeyError for a missing key).

    Raises:
        ValueError: the block raised something that is no message for a user.
    """
    try:
        yield
    except (OSError, ValueError, ImportError):
        raise
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{path}: cannot be loaded ({type(error).__name__}: {told}). One of its files is damaged, or of another "
            "version of the library; copy the directory again."
        ) from error


def shard_names(index: Path) -> list[str]:
    """The files that a weight index names, sorted.

    Raises:
        ValueError: it is damaged, or names a file in another directory.
    """
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index}: not a weight index ({error!r}). Copy the model again.") from None
    if outside:
        raise ValueError(
            f"{index}: names the shard {outside[0]!r}, which is not a file beside it. Copy the model again."
        )
    return names


def step_directory(parent: Path, step: int) -> Path:
    return parent / f"step_{step:06d}"


@dataclass(frozen=True)
class Prompts:
    """What stands before texts, in Sentence-Transformers' file and words; every model directory of ours has it.

    A directory without them (a hub's base model) does not say what it was trained with, which is not the same as a
    ``query`` prompt of "": that one was trained on bare queries.

    Attributes:
        by_name: prompt name -> what stands before the text. A reranker's are the instructions themselves: its template
            has a place for them.
        default_name: name of the prompt that is used unasked; None for embedding models.
    """

    by_name: Mapping[str, str]
    default_name: str | None = None

    @property
    def query(self) -> str:
        return self.by_name.get(QUERY) or ""

    @property
    def of_queries(self) -> tuple[str, ...]:
        """That of queries first, then those of other names; without the documents'."""
        return (self.query, *(prompt for name, prompt in self.by_name.items() if name not in (QUERY, DOCUMENT)))

    @staticmethod
    def of(content: Mapping[str, Any] | None) -> "Prompts | None":
        """From the content of ``PROMPTS_FILE``; None where it has none."""
        found = (content or {}).get("prompts")
        return None if not found else Prompts(dict(found), (content or {}).get("default_prompt_name"))

    @staticmethod
    def read(directory: Path) -> "Prompts | None":
        file = directory / PROMPTS_FILE
        return Prompts.of(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    def write(self, directory: Path) -> None:
        content = {"prompts": dict(self.by_name), "default_prompt_name": self.default_name}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (directory / PROMPTS_FILE).write_text(text, encoding="utf-8")
