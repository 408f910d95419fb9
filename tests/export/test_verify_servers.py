"""vLLM and TEI are asked where they are; here, what is asked of them, since neither installs on a small machine."""

import importlib.util
import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3emb_train.export.checks import BrokenPromiseError, NotApplicableError
from qwen3emb_train.export.verify import VerifyConfig, verify
from qwen3emb_train.export.verify_servers import TEI, check_tei, check_vllm
from tests.export.folders import export, failures
from tests.tiny import make_tiny_model_directory

TEXTS = ["a", "b c"]
VECTORS = torch.nn.functional.normalize(torch.tensor([[3.0, 4.0, 0.0], [1.0, 2.0, 2.0]]), dim=1)

# Answers as TEI does: /health, then /embed with one row for one input.
ROUTER = """\
#!{python}
import http.server, json, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
vectors = json.loads({vectors!r})
class Router(http.server.BaseHTTPRequestHandler):
    def answer(self, content):
        self.send_response(200); self.end_headers(); self.wfile.write(json.dumps(content).encode())
    def do_GET(self): self.answer({{}})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer([vectors[asked["inputs"]]])
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", port), Router).serve_forever()
"""


@pytest.fixture
def router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    vectors = json.dumps(dict(zip(TEXTS, VECTORS.tolist(), strict=True)))
    file = tmp_path / TEI
    file.write_text(ROUTER.format(python=sys.executable, vectors=vectors))
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return file


def test_tei_is_started_asked_and_stopped(router: Path, tmp_path: Path) -> None:
    assert check_tei(tmp_path, TEXTS, VECTORS).metrics["TEI"] == pytest.approx(1)
    with pytest.raises(BrokenPromiseError, match="TEI's vectors have cosine"):
        check_tei(tmp_path, TEXTS, VECTORS.flip(0))


def test_a_router_that_does_not_start_is_a_failure(router: Path, tmp_path: Path) -> None:
    router.write_text(f"#!{sys.executable}\nraise SystemExit(3)\n")
    with pytest.raises(BrokenPromiseError, match="ended with 3"):
        check_tei(tmp_path, TEXTS, VECTORS)


def test_vllm_is_asked_for_pooling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class LLM:
        def __init__(self, model: str, runner: str, **_: Any) -> None:
            assert (model, runner) == (str(tmp_path), "pooling")

        def embed(self, texts: list[str]) -> list[Any]:
            rows = dict(zip(TEXTS, VECTORS.tolist(), strict=True))
            return [types.SimpleNamespace(outputs=types.SimpleNamespace(embedding=rows[text])) for text in texts]

    module = types.ModuleType("vllm")
    module.LLM = LLM  # type: ignore[attr-defined]
    module.__spec__ = importlib.util.spec_from_loader("vllm", loader=None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    assert check_vllm(tmp_path, TEXTS, VECTORS).metrics["vLLM"] == pytest.approx(1)


def test_what_is_not_installed_is_skipped_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "vllm", None)
    for check in (check_tei, check_vllm):
        with pytest.raises(NotApplicableError, match=r"is not (installed|in the PATH)"):
            check(tmp_path, TEXTS, VECTORS)


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or (importlib.util.find_spec("vllm") is None and shutil.which(TEI) is None),
    reason="needs a CUDA device and vLLM or text-embeddings-router",
)
def test_the_real_servers_read_an_export(tmp_path: Path) -> None:
    model = make_tiny_model_directory(tmp_path / "model", hidden_size=128)
    folder = export(model, tmp_path / "out", max_tokens=256)
    assert not {name for name in failures(verify(VerifyConfig(path=str(folder), vllm=True, tei=True))) if "of" in name}
