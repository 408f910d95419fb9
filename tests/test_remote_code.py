"""A model folder's own Python never runs unless asked for, and nothing asks on stdin."""

import ast
import io
import json
from pathlib import Path

import pytest

from qwen3emb_train.cli.front_door import main
from tests.tiny import make_tiny_model_directory

ROOT = Path(__file__).resolve().parent.parent


def test_every_load_says_whether_code_may_run() -> None:
    """transformers asks on stdin where it is not said: ``echo y |`` ran a folder's code."""
    silent = []
    for path in [*(ROOT / "qwen3emb_train").rglob("*.py"), *(ROOT / "data_synth").rglob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            is_load = call.func.attr in ("from_pretrained", "from_config")
            if not is_load or ast.unparse(call.func.value) == "PeftModel":  # loads no code
                continue
            named = {keyword.arg for keyword in call.keywords}
            if "trust_remote_code" not in named and "**source" not in ast.unparse(call):
                silent.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert not silent


@pytest.fixture
def with_code(tmp_path: Path) -> Path:
    model = make_tiny_model_directory(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {name: f"own.{name}" for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM")}
    (model / "config.json").write_text(json.dumps(config))
    (model / "own.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'RAN')!r}).touch()\n")
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    tokenizer |= {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"}
    (model / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return model


@pytest.mark.parametrize(
    "command",
    [
        ["export", "model=MODEL", "output_dir=OUT"],
        ["export_onnx", "model=MODEL", "output_dir=OUT"],
        ["export_reranker", "model=MODEL", "output_dir=OUT"],
        ["merge", "models=[MODEL,MODEL]", "output_dir=OUT"],
        ["verify", "model=MODEL"],
        ["plan", "model.path=MODEL", "data.a.path=rows.jsonl", "output_dir=OUT"],
    ],
    ids=lambda command: command[0],
)
def test_a_folders_code_does_not_run_even_if_stdin_says_yes(
    command: list[str], with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"query": "a", "positive": "b"}\n' * 8)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    arguments = [part.replace("MODEL", str(with_code)).replace("OUT", str(tmp_path / "out")) for part in command]
    assert main(arguments) in (1, 2)
    assert not (tmp_path / "RAN").exists()
