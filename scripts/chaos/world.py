"""A small world for the programs: models, data and finished runs to give them, and a command for each that works.

Programs run in forked children: the imports, which take longer than a tiny run, are done once.
"""

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

_MEMORY = 6 * 2**30  # bytes of a child's data: an absurd setting must not take the machine's
SYNTHESIZE = "data_synth"
_TRAINING = [
    "batch_size=4",
    "steps=2",
    "save_every=1",
    "device=cpu",
    "precision=fp32",
    "cache_dir=cache",
    "log_every=1",
]
COMMANDS: dict[str, list[str]] = {
    "train_embedding": ["model.path=in/model", "data.a.path=in/rows.jsonl", "output_dir=out", *_TRAINING],
    "train_reranker": ["model.path=in/lm", "data.a.path=in/rows.jsonl", "output_dir=out", *_TRAINING],
    "plan": ["model.path=in/model", "data.a.path=in/rows.jsonl", "output_dir=out", *_TRAINING],
    "embed": ["model=in/model", "corpus=in/set/corpus.jsonl", "output_dir=out", "rows_per_shard=2"],
    "clean": ["examples=in/rows.jsonl", "evaluation_sets.a.path=in/set", "split.test_share=0.2", "output_dir=out"],
    "select_pairs": ["model=in/model", "examples=in/rows.jsonl", "output_dir=out"],
    "mine_negatives": ["model=in/model", "examples=in/rows.jsonl", "output_dir=out", "num_negatives=2"],
    "merge": ["models=[in/model,in/other]", "output_dir=out"],
    "merge_search": [
        "models=[in/model,in/other]", "dev_sets.a.path=in/set", "dev_sets.a.split=dev", "max_evaluations=3",
        "output_dir=out",
    ],
    "export": ["model=in/model", "output_dir=out"],
    "export_reranker": ["model=in/lm", "output_dir=out"],
    "export_onnx": ["model=in/model", "output_dir=out", "verify=false"],
    "export_gguf": ["model=in/model", "output_dir=out", "verify=false"],
    "verify": ["path=in/model"],
    "evaluate": [
        "models.a=in/model", "models.bm25=bm25", "sets.a.path=in/set", "output_dir=out", "bootstrap_samples=10",
    ],
    "report": ["runs.a=in/run", "output_dir=out"],
    "evaluate_mteb": ["model=in/model", "local_sets.a.path=in/set", "output_dir=out"],
    "search": ["model=in/model", "corpus=in/set/corpus.jsonl", "query=a list"],
    "convert_gguf": ["gguf=in/model.gguf", "output_dir=out"],
    SYNTHESIZE: [
        "documents.a.path=in/docs", "documents.a.min_tokens=1", "documents.a.language=en", "output_dir=out",
        "teacher.model=m", "teacher.base_urls=[http://127.0.0.1:9/v1]", "teacher.max_attempts=1",
        "teacher.patience_seconds=0.2", "teacher.backoff_seconds=0.01", "teacher.connect_seconds=0.2",
    ],
}  # fmt: skip
_HEAVY = (
    "torch", "transformers", "transformers.models.qwen3.modeling_qwen3", "accelerate", "peft", "datasets", "hydra",
    "sentence_transformers", "matplotlib.pyplot", "mteb", "onnxscript", "openai", "aiohttp",
)  # fmt: skip


def write_world(directory: Path) -> None:
    """Fills ``directory/in`` with what the commands read, and ``directory/mine`` with a user's own files."""
    from tests.evaluation.tiny_set import write_tiny_set
    from tests.tiny import make_tiny_causal_lm_directory, make_tiny_model_directory
    from tests.training.setup import write_rows

    inside = directory / "in"
    inside.mkdir(parents=True)
    make_tiny_model_directory(inside / "model")
    make_tiny_model_directory(inside / "other", seed=1)
    make_tiny_causal_lm_directory(inside / "lm")
    write_rows(inside / "rows.jsonl")
    write_tiny_set(inside / "set")
    (inside / "docs").mkdir()
    for name in ("a.txt", "b.md"):
        (inside / "docs" / name).write_text("The list holds items. Sorting it takes time, and a file keeps it.\n" * 3)
    (inside / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    mine = directory / "mine"
    (mine / "data").mkdir(parents=True)
    (mine / "thesis.txt").write_text("years of work")
    write_rows(mine / "data" / "rows.jsonl")
    trained = [part.replace("output_dir=out", "output_dir=in/run") for part in COMMANDS["train_embedding"]]
    result = run_program("train_embedding", trained, directory, 300.0)
    if result.code != 0:
        raise RuntimeError(f"the world's own training failed:\n{result.output}")


def import_all() -> None:
    """What the programs import when they run, so that forked children have it."""
    from data_synth.__main__ import PROGRAM
    from qwen3emb_train.cli.programs import PROGRAMS
    from qwen3emb_train.configuration.compose import load

    for name in _HEAVY:
        try:
            import_module(name)
        except ImportError:
            continue
    for program in (*PROGRAMS.values(), PROGRAM):
        load(program.schema)
    for package in ("qwen3emb_train", "data_synth"):
        root = Path(str(import_module(package).__file__)).parent
        for path in sorted(root.rglob("*.py")):
            if not path.name.startswith("__"):
                try:
                    import_module(".".join((package, *path.relative_to(root).with_suffix("").parts)))
                except ImportError:
                    continue


@dataclass(frozen=True)
class Result:
    """What a program did.

    Attributes:
        code: its exit code; negative for a signal.
        output: stdout and stderr together.
        was_stopped: it took longer than allowed, and was told to stop by SIGTERM.
        seconds: until its end.
    """

    code: int
    output: str
    was_stopped: bool
    seconds: float


def start_program(name: str, arguments: Sequence[str], directory: Path, log: Path) -> int:
    """Forks a child that runs a program in ``directory``; returns its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        os.chdir(directory)
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ["HOME"] = str(directory / "home")
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        code = _main_of(name)(list(arguments))
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_program(name: str, arguments: Sequence[str], directory: Path, seconds: float) -> Result:
    """Runs a program to its end.

    Args:
        name: of ``COMMANDS``.
        arguments: behind the program's name.
        directory: its working directory.
        seconds: after which it gets SIGTERM, and twice as late SIGKILL.
    """
    log = directory.with_name(f"{directory.name}.log")
    started = time.monotonic()
    child = start_program(name, arguments, directory, log)
    was_stopped = False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        passed = time.monotonic() - started
        if passed > 2 * seconds:
            os.killpg(child, signal.SIGKILL)
        elif passed > seconds and not was_stopped:
            was_stopped = True
            os.kill(child, signal.SIGTERM)
        time.sleep(0.005)
    output = log.read_text(encoding="utf-8", errors="replace")
    return Result(os.waitstatus_to_exitcode(status), output, was_stopped, time.monotonic() - started)


def _main_of(name: str) -> Callable[[list[str]], int]:
    if name == SYNTHESIZE:
        from data_synth.__main__ import main as synthesize

        return synthesize
    from qwen3emb_train.cli.front_door import main

    return lambda arguments: main([name, *arguments])


def tree_state(directory: Path, without: Sequence[str] = ()) -> dict[str, str]:
    """Content of every file below a directory, by name.

    Args:
        directory: to walk; links are not followed.
        without: names of direct children to leave out.
    """
    from qwen3emb_train.lineage import file_digest

    state = {}
    for parent, folders, files in os.walk(directory):
        if Path(parent) == directory:
            folders[:] = [name for name in folders if name not in without]
            files = [name for name in files if name not in without]
        for name in (*folders, *files):
            path = Path(parent) / name
            if path.is_symlink():
                content = f"-> {os.readlink(path)}"
            elif path.is_file():
                content = file_digest(path)
            else:
                content = "directory"
            state[str(path.relative_to(directory))] = content
    return state


def write_report(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
