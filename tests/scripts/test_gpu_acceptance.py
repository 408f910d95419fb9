"""The acceptance run at tiny shapes on a CPU, and its judgements on made-up figures: each can say no."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from qwen3emb_train.models import packing
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.models.varlen import VarlenSpans
from scripts.acceptance import child, driver, report
from scripts.acceptance.part import PARTS, CannotRunError, Part, Row, Setup, required, within
from scripts.acceptance.parts import engines, exactness, gpu_tests, mfu, open_small, profile, resume
from scripts.bench.random_steps import load_on
from tests.models.test_varlen import reference

ROOT = Path(__file__).resolve().parents[2]
# What a lent machine may be without: importing any of them is an error in this process.
ABSENT = ("hydra", "omegaconf", "deepspeed", "flash_attn", "peft", "wandb", "gguf", "bm25s")
BARE = f"""
import json, sys
for name in {ABSENT!r}: sys.modules[name] = None
from pathlib import Path
from scripts.acceptance.child import run_part
from scripts.acceptance.part import Setup
for name in sys.argv[2:]:
    work = Path(sys.argv[1]) / name
    work.mkdir()
    print("RESULT " + json.dumps([name, run_part(name, Setup("cpu", True, 0.4, work))]), flush=True)
"""
EVERYWHERE = [part.name for part in PARTS if part.name not in ("open_small", "gpu_tests")]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup("cpu", smoke=True, hours=0.4, work=tmp_path)


@pytest.mark.slow
def test_every_part_runs_where_the_optional_libraries_are_absent(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BARE, str(tmp_path), *EVERYWHERE, "open_small"]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = [line.removeprefix("RESULT ") for line in finished.stdout.splitlines() if line.startswith("RESULT ")]
    found: dict[str, dict[str, Any]] = dict(map(json.loads, lines))
    assert [*found] == [*EVERYWHERE, "open_small"], finished.stderr
    for name in EVERYWHERE:
        assert found[name]["status"] == report.DONE, (name, found[name]["reason"], finished.stderr)
        assert found[name]["rows"], name
    rows = {name: {row["what"]: row for row in result["rows"]} for name, result in found.items()}
    assert rows["engines"]["zero, one rank, bf16"]["found"] == "deepspeed is not installed"
    assert rows["engines"]["fsdp2, one rank, bf16: loss"]["found"] > 0, "bf16 states under FSDP2 are not autocast's"
    assert "hydra is not installed" in rows["resume"]["through"]["found"]
    assert rows["resume"]["exit code after SIGTERM"]["found"] == "75"
    assert rows["resume"]["loss, largest difference of all steps"]["found"] == 0, "on a CPU the same bits"
    assert found["open_small"]["status"] == report.CANNOT_RUN
    assert "not installed: hydra, gguf, bm25s" in found["open_small"]["reason"]


@pytest.mark.slow
def test_zero_is_compared_where_deepspeed_is_installed(setup: Setup) -> None:
    pytest.importorskip("deepspeed")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = setup.work / "result.json"
    arguments = ["engines", "cpu", "0.4", "1", str(setup.work), str(result)]
    subprocess.run([sys.executable, "-m", "scripts.acceptance.child", *arguments], env=environment, check=True)
    found = json.loads(result.read_text())
    assert found["status"] == report.DONE, found["reason"]
    assert {"zero2, one rank, fp32: loss", "zero2, one rank, bf16: products"} <= {row["what"] for row in found["rows"]}


@pytest.mark.slow
def test_the_shell_script_continues_what_is_done(tmp_path: Path) -> None:
    command = [str(ROOT / "scripts" / "gpu_acceptance.sh"), "--device", "cpu", "--smoke", "--output", str(tmp_path)]
    command += ["--only", "versions"]
    environment = os.environ | {"PYTHON": sys.executable}
    first, again = (subprocess.run(command, env=environment, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == again.returncode == 0, first.stderr
    assert "versions: done before" not in first.stdout
    assert "versions: done before" in again.stdout
    assert f"| torch | {torch.__version__}" in (tmp_path / report.TABLE).read_text()


def test_a_cpu_at_full_shapes_is_refused() -> None:
    command = [sys.executable, "-m", "scripts.acceptance", "--device", "cpu"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 2
    assert "--device cpu needs --smoke" in finished.stderr


def test_every_part_has_its_file() -> None:
    files = {path.stem for path in (ROOT / "scripts" / "acceptance" / "parts").glob("*.py")} - {"__init__"}
    assert files == {part.name for part in PARTS}
    assert all(part.limit_s is None or part.limit_s < 540 for part in PARTS)


def outcome(part: Part, *_: object, status: str = report.DONE) -> dict[str, Any]:
    return driver.ended(status, f"of {part.name}", 1.0, "cpu", True)


def test_done_parts_are_not_repeated_others_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    failing = {"loss"}

    def run(part: Part, *rest: object) -> dict[str, Any]:
        ran.append(part.name)
        return outcome(part, status=report.FAILED if part.name in failing else report.DONE)

    monkeypatch.setattr(driver, "run_in_process", run)
    assert driver.run_all(tmp_path, "cpu", True, 0.4, ["versions", "loss"]) == 1
    assert driver.run_all(tmp_path, "cpu", True, 0.4, ["versions", "loss", "mfu"]) == 1
    assert ran == ["versions", "loss", "loss", "mfu"]
    failing.clear()
    assert driver.run_all(tmp_path, "cpu", True, 0.4, ["loss"]) == 0
    assert [*report.read(tmp_path)] == ["versions", "loss", "mfu"]
    assert not driver.is_done(report.read(tmp_path)["mfu"], "NVIDIA H200", False), "a CPU's result is not a GPU's"


def test_no_part_is_started_that_does_not_fit_into_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: dict[str, float] = {}
    monkeypatch.setattr(
        driver, "run_in_process", lambda part, *rest: limits.update({part.name: rest[-1]}) or outcome(part)
    )
    monkeypatch.setattr(driver, "device_name", lambda device: "cpu")
    driver.run_all(tmp_path, "cuda", False, 300 / 3600, ["versions", "mfu", "open_small"])
    assert [*limits] == ["versions", "mfu"]
    assert max(limits.values()) <= 300
    assert report.read(tmp_path)["open_small"]["status"] == report.LEFT_OUT
    assert "needs about 2700 s" in (tmp_path / report.TABLE).read_text()


def test_a_part_that_hangs_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.sys, "executable", str(script(tmp_path / "hang", "echo $$ > pid; sleep 600")))
    monkeypatch.setattr(driver, "ROOT", tmp_path)
    found = driver.run_in_process(PARTS[0], tmp_path, "cpu", "cpu", True, 0.4, 1.0)
    assert (found["status"], found["reason"]) == (report.FAILED, "ended after its limit of 1 s")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    monkeypatch.setattr(driver.sys, "executable", str(script(tmp_path / "die", "exit 3")))
    found = driver.run_in_process(PARTS[0], tmp_path, "cpu", "cpu", True, 0.4, 10.0)
    assert "left with code 3" in found["reason"]


def script(path: Path, commands: str) -> Path:
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("raised", "rows", "status", "reason"),
    [
        (CannotRunError("no such thing"), [], report.CANNOT_RUN, "no such thing"),
        (ValueError("bad\nthing"), [], report.FAILED, "ValueError: bad"),
        (SystemExit("not comparable"), [], report.FAILED, "SystemExit: not comparable"),
        (None, [within("x", 2.0, 1.0)], report.FAILED, "out of bounds: x"),
        (None, [within("x", math.nan, 1.0)], report.FAILED, "out of bounds: x"),
        (None, [within("x", 1.0, 1.0), Row("y", 3)], report.DONE, ""),
    ],
)
def test_whatever_a_part_does_is_a_result(
    raised: BaseException | None, rows: list[Row], status: str, reason: str, setup: Setup,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def measure(setup: Setup) -> list[Row]:
        if raised is not None:
            raise raised
        return rows

    monkeypatch.setattr(child.importlib, "import_module", lambda name: SimpleNamespace(measure=measure))
    found = child.run_part("versions", setup)
    assert (found["status"], found["reason"]) == (status, reason)
    json.loads(json.dumps(found, allow_nan=False))


def test_the_table_holds_figures_verdicts_and_reasons() -> None:
    rows = [Row("a|b", 12345.6, "tokens/s"), within("small", 0.00123, 0.01), required("code", 1, 75)]
    results = {
        "mfu": driver.ended(report.FAILED, "out of bounds: code", 1.0, "cpu", True)
        | {"rows": [vars(row) for row in rows]},
        "loss": driver.ended(report.LEFT_OUT, "no time", 0.0, "cpu", True),
    }
    table = report.table(results)
    assert "| mfu | a\\|b | 12,346 tokens/s |  |  |" in table
    assert "|  | small | 0.00123 | <= 0.01 | ok |" in table
    assert "|  | code | 1 | = 75 | **no** |" in table
    assert "- loss: left out: no time" in table


@pytest.mark.parametrize("broken", [False, True])
def test_a_wrong_kernel_is_out_of_bounds(broken: bool, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop of the kernels' contract in a kernel's place; the wrong one sees a text's future."""

    def kernel(*arguments: Any, window: tuple[int, int], scale: float | None) -> Tensor:
        assert isinstance(arguments[3], VarlenSpans)
        return reference(*arguments, window=(-1, -1) if broken else window, scale=scale)

    problem, cpu = exactness.make_problem(setup), torch.device("cpu")
    encoder = load_on(problem.model, cpu)  # before: loading would notice the wrong kernel, and use padded batches
    monkeypatch.setattr(packing, "varlen_kernel_for", lambda device, dtype, head_dim: kernel)
    plain = exactness.observe(encoder, problem, Precision.fp32, cpu)
    rows = exactness.kernel_rows(encoder, problem, Precision.fp32, cpu, plain, "fp32")
    assert [row.ok for row in rows] == [not broken] * 3


def test_shared_and_whole_are_two_ways(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = exactness.make_problem(setup)
    exactness.require_sharing(problem)
    seen = Counter[str]()
    monkeypatch.setattr(exactness.gradient_cache, "share_prefixes", lambda tokens: seen.update(["shared"]) or tokens)
    encoder = load_on(problem.model, torch.device("cpu"))
    with exactness.whole_texts():
        exactness.observe(encoder, problem, Precision.fp32, torch.device("cpu"))
    assert not seen
    exactness.observe(encoder, problem, Precision.fp32, torch.device("cpu"))
    assert seen["shared"] >= 2, "once for each chunk"


def test_an_engine_that_drifts_is_out_of_bounds() -> None:
    alone = engines.Course([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    drifting = engines.Course([1.0, 2.0, 3.2], [1.0, 1.0, 2.0])
    assert [row.ok for row in engines.compared("ddp", Precision.fp32, alone, alone)] == [True] * 3
    assert [row.ok for row in engines.compared("fsdp2", Precision.bf16, drifting, alone)] == [True, False, False]


def test_a_step_logged_twice_is_an_error_and_a_torn_line_is_not(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "ndcg": 1}\n{"step": 2, "lo')
    assert resume.losses(tmp_path) == {1: 2.5}
    path.write_text('{"step": 1, "loss": 2.5}\n{"step": 1, "loss": 2.5}\n')
    with pytest.raises(ValueError, match="logged twice"):
        resume.losses(tmp_path)


def test_the_profile_counts_waits_and_the_union_of_kernels() -> None:
    def event(name: str, device: str, start: float, end: float) -> SimpleNamespace:
        return SimpleNamespace(
            name=name, device_type=f"DeviceType.{device}", time_range=SimpleNamespace(start=start, end=end)
        )

    events = [
        event("cudaStreamSynchronize", "CPU", 0, 5), event("aten::_local_scalar_dense", "CPU", 0, 6),
        event("gemm", "CUDA", 0, 1000), event("norm", "CUDA", 500, 1500), event("gemm", "CUDA", 3000, 4000),
        event("Memcpy DtoH (Device -> Pageable)", "CUDA", 3900, 4000),
    ]  # fmt: skip
    rows = {row.what: row.found for row in profile.rows_of(events, is_cuda=True)}
    assert rows["calls by which the host waits"] == rows["values read by the host (.item())"] == 1
    assert rows["kernels"] == 3
    assert rows["device idle in between"] == 37.5
    assert rows["time in gemm"] == 50
    assert [row.ok for row in profile.rows_of([], is_cuda=True)][-1] is False, "no kernel seen is not zero idle"


def test_gpu_tests_are_counted_with_their_reasons(tmp_path: Path) -> None:
    cases = '<testcase classname="t" name="a"/><testcase classname="t" name="b"><failure message="unequal"/></testcase>'
    cases += '<testcase classname="t" name="c"><skipped message="no vLLM"/></testcase>'
    (tmp_path / "junit.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    rows = {row.what: row for row in gpu_tests.rows_of(tmp_path / "junit.xml", is_cuda=True)}
    assert (rows["tests marked gpu"].found, rows["passed"].found, rows["skipped"].found) == (3, 1, 1)
    assert rows["failed"].ok is False
    assert rows["failure: t.b"].found == "unequal"
    (tmp_path / "junit.xml").write_text("<testsuites/>")
    assert [row.ok for row in gpu_tests.rows_of(tmp_path / "junit.xml", is_cuda=True)][:2] == [False, False]


def test_a_cards_peak_is_the_planners_or_none() -> None:
    assert mfu.peak_tflops(mfu.known_card("NVIDIA H200")) == 989.0
    assert mfu.peak_tflops(mfu.known_card("NVIDIA GeForce RTX 4090")) == 165.0
    assert mfu.peak_tflops(mfu.known_card("another card")) is None


def test_open_small_reports_all_that_is_missing_and_reads_its_table(setup: Setup) -> None:
    reasons = "; ".join(open_small.obstacles(Setup("cuda", False, 0.4, setup.work), setup.work))
    assert "--hours is 0.4, it needs 1 or more" in reasons
    assert "no data sets docs_en" in reasons
    rows = [
        {"model": "sft", "dim": dim, "scores": {"ndcg_at_10": score}, "metric": "ndcg_at_10"}
        for dim, score in ((None, 0.4), (None, 0.6), (128, 0.1))
    ]
    (setup.work / "results.json").write_text(json.dumps(rows))
    assert open_small.scores(setup.work / "results.json") == [Row("sft: 2 sets, mean nDCG@10", 0.5)]
