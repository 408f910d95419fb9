"""Opt-in checks of vLLM and Text Embeddings Inference, where they are installed.

Their kernels, often in half precision, give vectors that are close to ours, not equal.
"""

import importlib.util
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.export.checks import BrokenPromiseError, Finding, NotApplicableError
from qwen3emb_train.export.verify_vectors import least_cosine

LEAST_COSINE = 0.999
TEI = "text-embeddings-router"


def check_vllm(directory: Path, texts: Sequence[str], expected: Float[Tensor, "texts dim"]) -> Finding:
    """Vectors of vLLM's pooling runner, with the settings of the folder.

    Args:
        directory: the folder.
        texts: to embed.
        expected: their vectors.

    Raises:
        NotApplicableError: vLLM is not installed.
        BrokenPromiseError: a cosine is below 0.999.
    """
    if importlib.util.find_spec("vllm") is None:
        raise NotApplicableError("vLLM is not installed")
    from vllm import LLM

    server: Any = LLM(model=str(directory), runner="pooling", enforce_eager=True)
    return _compare("vLLM", torch.tensor([row.outputs.embedding for row in server.embed(list(texts))]), expected)


def check_tei(
    directory: Path, texts: Sequence[str], expected: Float[Tensor, "texts dim"], startup_seconds: float = 300.0
) -> Finding:
    """Vectors of the router in a process of its own, on a free local port.

    Args:
        directory: the folder.
        texts: to embed.
        expected: their vectors.
        startup_seconds: time limit for its start.

    Raises:
        NotApplicableError: the router is not installed.
        BrokenPromiseError: it does not start, or a cosine is below 0.999.
    """
    if shutil.which(TEI) is None:
        raise NotApplicableError(f"{TEI} is not in the PATH")
    with _running_tei(directory, startup_seconds) as address:
        vectors = [_post(f"{address}/embed", {"inputs": text, "truncate": True})[0] for text in texts]
    return _compare("TEI", torch.tensor(vectors), expected)


def _compare(name: str, vectors: Float[Tensor, "texts dim"], expected: Float[Tensor, "texts dim"]) -> Finding:
    cosine = least_cosine(torch.nn.functional.normalize(vectors, dim=1), expected)
    if not cosine >= LEAST_COSINE:
        raise BrokenPromiseError(f"{name}'s vectors have cosine {cosine:.6f} to transformers', at least {LEAST_COSINE}")
    return Finding(f"least cosine {cosine:.8f}", {name: cosine})


@contextmanager
def _running_tei(directory: Path, startup_seconds: float) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [TEI, "--model-id", str(directory.resolve()), "--hostname", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_healthy(address, process, time.monotonic() + startup_seconds)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_until_healthy(address: str, process: "subprocess.Popen[bytes]", deadline: float) -> None:
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    ended = f"ended with {process.poll()}" if process.poll() is not None else "did not answer in time"
    raise BrokenPromiseError(f"{TEI} {ended}: start it by hand on the folder to see why")


def _post(address: str, content: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        address, json.dumps(content).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)
