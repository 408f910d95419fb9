"""``~`` is the home directory wherever a path is taken: in every program, in lists, in mappings and in files."""

from pathlib import Path

import pytest

from data_synth.__main__ import PROGRAM as SYNTHESIS
from qwen3emb_train.cli.programs import PROGRAMS
from qwen3emb_train.configuration.arguments import Request, parse_arguments
from qwen3emb_train.configuration.compose import compose
from qwen3emb_train.configuration.documentation import read_program
from qwen3emb_train.configuration.paths import PATH_KEYS, PATHS_KEYS

NO_PATHS = {
    "allowed", "api_key_env", "base_model", "base_urls", "baseline", "benchmark", "default_instruction", "device",
    "document_column", "eos_token", "extra_body", "faiss_index", "gpu", "ignored_columns", "instruction",
    "instructions", "language", "language_column", "languages", "license", "metric", "metrics", "model_name",
    "engine", "num_gpus", "package", "passage_prompt", "project", "push_to_hub",
    "query", "query_instruction", "retry_rejected", "revision", "run_name", "split",
    "target_modules", "task", "tasks", "tasks_with_main_loss", "text_column", "title", "title_column",
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", "/home/me")
    return "/home/me"


@pytest.mark.parametrize("program", [*PROGRAMS.values(), SYNTHESIS], ids=lambda program: program.name)
def test_every_text_is_known_as_a_path_or_as_none(program) -> None:  # type: ignore[no-untyped-def]
    """A new key must be put into one of the three tables."""
    for block in read_program(program).walk():
        for key in block.keys:
            name = key.path.rpartition(".")[2]
            if "text" in key.type.split():
                known = PATH_KEYS if key.type.startswith("text") else PATHS_KEYS
                assert (name in known) != (name in NO_PATHS or key.path == "prompts"), key.path


def test_lists_mappings_and_entries_of_the_users_own_are_expanded(home: str) -> None:
    config, text = compose(PROGRAMS["merge"], Request(["models=[~/a,b,~]", "output_dir=~/o"]))
    assert (config.models, config.output_dir) == ([f"{home}/a", "b", home], f"{home}/o")
    assert "~" not in text
    config, _ = compose(
        PROGRAMS["evaluate"], Request(["models={a: ~/a}", "models.b=~/b", "sets.t.path=~/t", "output_dir=x/~/o"])
    )
    assert config.models == {"a": f"{home}/a", "b": f"{home}/b"}
    assert (config.sets["t"].path, config.output_dir) == (f"{home}/t", "x/~/o")
    config, _ = compose(
        SYNTHESIS,
        Request(["documents.d.path=~/d", "filters.decontamination.sets=[~/s]", "dry_run=true", "output_dir=o"]),
    )
    assert (config.documents["d"].path, config.filters.decontamination.sets) == (f"{home}/d", [f"{home}/s"])


def test_a_text_keeps_its_tilde() -> None:
    config, _ = compose(PROGRAMS["search"], Request(["model=m", "corpus=c", "query=~/.bashrc is what?"]))
    assert config.query == "~/.bashrc is what?"


def test_files_are_expanded_also_where_one_key_refers_to_another(home: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "defaults: [/clean, _self_]\nexamples: ~/p.jsonl\noutput_dir: ~/c\n"
        "evaluation_sets:\n  t: {path: '${output_dir}/t'}\n"
    )
    config, _ = compose(PROGRAMS["clean"], Request([], tmp_path, "c"))
    assert (config.examples, config.output_dir) == (f"{home}/p.jsonl", f"{home}/c")
    assert config.evaluation_sets["t"].path == f"{home}/c/t"


def test_the_directory_of_a_recipe_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "clean.yaml").write_text("")
    assert parse_arguments(PROGRAMS["clean"], ["--config-dir=~"]).config_dir == tmp_path
