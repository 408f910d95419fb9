"""Rounds on a Ray cluster: request files flow through Ray Data's vLLM processor into a result file.

vLLM says nothing of why a reply ended; one that has as many tokens as were allowed counts as cut.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_synth.teachers.settings import TeacherConfig

_NOT_SAMPLING = ("model", "messages", "response_format", "chat_template_kwargs", "max_completion_tokens")
_MISSING = "engine=ray needs {}: pip install 'qwen3emb-train[synth,ray]' vllm, or use engine=http or engine=batch."

Row = dict[str, Any]
RowFunction = Callable[[Row], Row]


@dataclass
class RayConfig:
    """Settings of ``engine=ray``: vLLM inside Ray Data, on the cluster of ``RAY_ADDRESS`` or else on this machine.

    Attributes:
        engine: JSON object of vLLM's engine arguments, e.g. '{"max_model_len": 8192, "tensor_parallel_size": 2}'.
        replicas: copies of the model.
        batch_size: requests that a copy is handed at once.
    """

    engine: str = ""
    replicas: int = 1
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.batch_size < 1:
            raise ValueError("ray.replicas and ray.batch_size: give at least 1.")
        self.engine_arguments()

    def engine_arguments(self) -> dict[str, Any]:
        """``engine`` as a dictionary.

        Raises:
            ValueError: it is no JSON object.
        """
        try:
            arguments = json.loads(self.engine or "{}")
        except ValueError as error:
            raise ValueError(f"ray.engine: not JSON ({error}). Write an object, or nothing.") from None
        if not isinstance(arguments, dict):
            raise ValueError("ray.engine: no JSON object. Write one in braces, or nothing.")
        return arguments


def require_vllm() -> None:
    """Checks, before any work, that Ray and vLLM are there.

    Raises:
        ImportError: one is missing.
    """
    for package, name in (("ray", "Ray"), ("vllm", "vLLM")):
        if find_spec(package) is None:
            raise ImportError(_MISSING.format(name))


def vllm_processor(teacher: TeacherConfig, config: RayConfig, before: RowFunction, after: RowFunction) -> Any:
    """Ray Data's processor of a vLLM model: a function from data set to data set.

    Args:
        teacher: whose model is loaded.
        config: how.
        before, after: row -> row with ``messages`` and ``sampling_params``, and row with a reply -> row.
    """
    import ray.data.llm as llm

    build = getattr(llm, "build_processor", None) or llm.build_llm_processor
    settings = llm.vLLMEngineProcessorConfig(
        model_source=teacher.model,
        engine_kwargs=config.engine_arguments(),
        concurrency=config.replicas,
        batch_size=config.batch_size,
        should_continue_on_error=True,
    )
    template = teacher.extra_fields().get("chat_template_kwargs")
    more = {"builder_kwargs": {"chat_template_kwargs": template}} if template else {}
    return build(settings, preprocess=before, postprocess=after, **more)


@dataclass
class RayRounds:
    """Answers request files on the cluster.

    Attributes:
        teacher, config: see there.
        processor: builds what answers rows; vLLM's, if not given.
    """

    teacher: TeacherConfig
    config: RayConfig
    processor: Callable[[TeacherConfig, RayConfig, RowFunction, RowFunction], Any] = field(default=vllm_processor)

    def answer(self, waiting: Mapping[Path, Collection[str]], results: Path) -> int:
        """Answers what waits. Each reply is in a result file as soon as it comes, so a killed round goes on.

        Args:
            waiting: ids of requests, by file.
            results: directory of result files.

        Returns:
            The number of results.
        """
        import ray
        import ray.data

        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        number = 1 + max((int(path.stem[4:]) for path in results.glob("ray-*.jsonl")), default=0)
        wanted = {name for names in waiting.values() for name in names}
        lines = ray.data.read_text([str(path.resolve()) for path in waiting])
        rows = lines.map(_row_of).filter(lambda row: row["custom_id"] in wanted)
        answered = self.processor(self.teacher, self.config, request_to_row, row_to_result)(rows)
        num_results = 0
        with (results / f"ray-{number:06d}.jsonl").open("w", encoding="utf-8") as file:
            for row in answered.iter_rows():
                file.write(row["result"] if row.get("result") else json.dumps(_failed(row)))
                file.write("\n")
                file.flush()
                num_results += 1
            os.fsync(file.fileno())
        return num_results


def request_to_row(row: Row) -> Row:
    """What vLLM's processor reads of a request."""
    body = json.loads(row["body"])
    sampling = {name: value for name, value in body.items() if name not in _NOT_SAMPLING}
    if "max_completion_tokens" in body:
        sampling["max_tokens"] = body["max_completion_tokens"]
    if "response_format" in body:
        sampling["structured_outputs"] = {"json": body["response_format"]["json_schema"]["schema"]}
    return {"messages": body["messages"], "sampling_params": sampling, **row}


def row_to_result(row: Row) -> Row:
    """A line of a result file out of a row with a reply."""
    body = json.loads(row["body"])
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    num_tokens = int(row["num_generated_tokens"])
    finish = "length" if limit is not None and num_tokens >= limit else "stop"
    completion = {
        "object": "chat.completion",
        "choices": [{"message": {"role": "assistant", "content": row["generated_text"]}, "finish_reason": finish}],
        "usage": {"prompt_tokens": int(row["num_input_tokens"]), "completion_tokens": num_tokens},
    }
    result = {"custom_id": row["custom_id"], "response": {"status_code": 200, "body": completion}, "error": None}
    return {"custom_id": row["custom_id"], "result": json.dumps(result)}


def _row_of(row: Row) -> Row:
    request = json.loads(row["text"])
    return {"custom_id": request["custom_id"], "body": json.dumps(request["body"])}


def _failed(row: Row) -> Row:
    """A row that vLLM could not answer, such as one that is longer than its context: refused."""
    words = str(row.get("__inference_error__") or "no reply")
    return {"custom_id": row["custom_id"], "response": {"status_code": 422, "body": {"error": words}}, "error": None}
