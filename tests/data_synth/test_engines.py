"""Synthesis in rounds, through batch files and Ray Data: the rows of a server, and no request bought twice."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data_synth import pipeline
from data_synth.brake import UselessRepliesError
from data_synth.teachers import ray_rounds
from data_synth.teachers.batch_files import BatchFiles
from data_synth.teachers.ray_rounds import RayRounds
from tests.data_synth.fake_server import Call, FakeServer, completion
from tests.data_synth.test_pipeline import CODE, PROSE, answer, files, run

EVERYTHING = ("tasks=[retrieval,code,instructions,sts]", "judge.enabled=true")


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number, text in enumerate(PROSE):
        (folder / f"{number}.txt").write_text(text)
    (folder / "code.py").write_text(CODE)
    return folder


def reply_to(body: dict[str, Any]) -> dict[str, Any]:
    given = answer(Call("POST", "", {}, json.dumps(body).encode(), 0))
    return json.loads(given.body)


class Vendor:
    """Answers the files that were handed in, each once."""

    def __init__(self, output: Path) -> None:
        self.output, self.seen, self.bought = output, set[Path](), Counter[str]()

    def answer(self, result: Any = None, *, at_most: int | None = None) -> int:
        result = result or (lambda request: {"response": {"status_code": 200, "body": reply_to(request["body"])}})
        num = 0
        for path in sorted(self.output.glob("batches/*/requests/*.jsonl")):
            if path in self.seen:
                continue
            self.seen.add(path)
            requests = [json.loads(line) for line in path.read_text().splitlines()]
            for request in requests:
                self.bought[request["custom_id"]] += 1
                assert request["method"] == "POST"
                assert request["url"] == "/v1/chat/completions"
            results = [{"custom_id": request["custom_id"], **result(request)} for request in reversed(requests)]
            lines = [json.dumps(line) + "\n" for line in results[:at_most]]
            (path.parent.parent / "results" / f"of-{path.stem}.jsonl").write_text("".join(lines))
            num += len(lines)
        return num


def rounds(documents: Path, output: Path, vendor: Vendor, *more: str) -> int:
    for _ in range(12):
        code = run(documents, output, "", "engine=batch", *more)
        if code != pipeline.EXIT_STOPPED:
            return code
        assert vendor.answer()
    raise AssertionError("no end")


def test_batch_files_publish_what_a_server_gives(documents: Path, tmp_path: Path) -> None:
    with FakeServer(answer) as server:
        assert run(documents, tmp_path / "http", server.url, *EVERYTHING) == 0
        num_calls = len(server.calls)
    vendor = Vendor(tmp_path / "batch")
    assert rounds(documents, tmp_path / "batch", vendor, *EVERYTHING) == 0
    published = {name: text for name, text in files(tmp_path / "http").items() if "examples" in name}
    assert published
    for name, text in files(tmp_path / "http").items():
        assert files(tmp_path / "batch")[name] == text, name
    assert set(vendor.bought.values()) == {1}
    assert len(vendor.bought) == num_calls

    stats = [json.loads((tmp_path / name / "stats.json").read_text()) for name in ("http", "batch")]
    assert stats[0]["items"] == stats[1]["items"]


def test_a_second_engine_continues_the_first_ones_ledger(documents: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run(documents, output, "", "engine=batch") == pipeline.EXIT_STOPPED
    num_first = Vendor(output).answer()
    assert run(documents, output, "", "engine=batch") == pipeline.EXIT_STOPPED
    with FakeServer(answer) as server:
        assert run(documents, output, server.url) == 0
        assert len(server.calls) == num_first  # the second step of each


def test_waiting_requests_are_not_written_again_and_cut_results_are_waited_for(documents: Path, tmp_path: Path) -> None:
    output, vendor = tmp_path / "out", Vendor(tmp_path / "out")
    assert run(documents, output, "", "engine=batch") == pipeline.EXIT_STOPPED
    before = files(output)
    assert run(documents, output, "", "engine=batch") == pipeline.EXIT_STOPPED
    assert files(output) == before
    num_first = sum(len(text.splitlines()) for name, text in before.items() if "requests" in name)
    vendor.answer(at_most=1)
    result = next(output.glob("batches/retrieval/results/*.jsonl"))
    (result.with_name("cut.jsonl")).write_text('{"custom_id": "ab')
    (result.with_name("again.jsonl")).write_text(result.read_text())
    assert run(documents, output, "", "engine=batch") == pipeline.EXIT_STOPPED
    asked = [line for path in output.glob("batches/retrieval/requests/*.jsonl") for line in path.open()]
    assert len(asked) == num_first + 1
    assert len({json.loads(line)["custom_id"] for line in asked}) == len(asked)


def test_refused_requests_fail_expired_ones_are_asked_again_and_retry_failed_asks_anew(
    documents: Path, tmp_path: Path
) -> None:
    output, vendor, flags = tmp_path / "out", Vendor(tmp_path / "out"), ("retrieval.one_call=true", "engine=batch")

    def troubled(request: dict[str, Any]) -> dict[str, Any]:
        said = json.dumps(request["body"])
        if "hoist" in said:
            body = {"error": {"message": "content policy", "code": "content_filter"}}
            return {"response": {"status_code": 400, "body": body}}
        if "Sourdough" in said:
            return {"response": None, "error": {"code": "batch_expired", "message": "expired"}}
        return {"response": {"status_code": 200, "body": reply_to(request["body"])}, "error": None}

    assert run(documents, output, "", *flags) == pipeline.EXIT_STOPPED
    vendor.answer(troubled)
    assert run(documents, output, "", *flags) == pipeline.EXIT_STOPPED
    assert vendor.answer() == 1  # the expired one
    assert run(documents, output, "", *flags) == 1
    assert "content policy" in (output / "retrieval/rejected/failed.jsonl").read_text()
    assert run(documents, output, "", *flags, "retry_failed=true") == pipeline.EXIT_STOPPED
    assert vendor.answer() == 1
    assert run(documents, output, "", *flags, "retry_failed=true") == 0
    assert set(vendor.bought.values()) == {1}


def test_the_brake_bounds_the_first_rounds(documents: Path, tmp_path: Path) -> None:
    output, vendor = tmp_path / "out", Vendor(tmp_path / "out")
    flags = ("retrieval.one_call=true", "engine=batch", "brake.num_items=2")
    useless = json.loads(completion("no object").body)
    assert run(documents, output, "", *flags) == pipeline.EXIT_STOPPED
    assert vendor.answer(lambda request: {"response": {"status_code": 200, "body": useless}}) == 2
    with pytest.raises(UselessRepliesError):
        run(documents, output, "", *flags)


def test_a_file_is_cut_by_requests_and_bytes_and_an_incomplete_one_is_written_anew(tmp_path: Path) -> None:
    store = BatchFiles(tmp_path, "0000-of-0001", max_requests=2, max_bytes=1000)
    for number in range(5):
        store.ask(f"a-{number}-0", {"text": "x" * (600 if number == 3 else 1)})
    assert [len(path.read_text().splitlines()) for path in store.files()] == [2, 2]
    store.close()
    again = BatchFiles(tmp_path, "0000-of-0001", max_requests=2, max_bytes=1000)
    again.ask("a-4-0", {"text": "x"})
    again.ask("a-5-0", {"text": "x" * 900})
    again.seal()
    assert [len(path.read_text().splitlines()) for path in again.files()] == [2, 2, 1, 1]
    with pytest.raises(ValueError, match="Cut passages"):
        again.ask("b-0-0", {"text": "x" * 1000})


def stand_in(teacher: Any, config: Any, before: Any, after: Any) -> Any:
    """In place of vLLM's processor: a map over the rows that carries their columns."""

    def generate(row: dict[str, Any]) -> dict[str, Any]:
        said = reply_to(json.loads(row["body"]))
        text, usage = said["choices"][0]["message"]["content"], said["usage"]
        tokens = {"num_input_tokens": usage["prompt_tokens"], "num_generated_tokens": usage["completion_tokens"]}
        return {**row, "generated_text": text, **tokens}

    return lambda rows: rows.map(before).map(generate).map(after)


@pytest.fixture
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_ray_publishes_what_a_server_gives(documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "require_vllm", lambda: None)
    monkeypatch.setattr(pipeline, "RayRounds", partial(RayRounds, processor=stand_in))
    with FakeServer(answer) as server:
        assert run(documents, tmp_path / "http", server.url) == 0
    assert run(documents, tmp_path / "ray", "", "engine=ray") == 0
    for name, text in files(tmp_path / "http").items():
        assert files(tmp_path / "ray")[name] == text, name


def test_a_missing_vllm_is_one_line(documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_rounds, "find_spec", lambda name: None if name == "vllm" else name)
    with pytest.raises(ImportError, match="engine=ray needs vLLM: pip install"):
        run(documents, tmp_path / "out", "", "engine=ray")
    assert not (tmp_path / "out").exists()
