"""Configurations: every file composes into its program's dataclass; without a file, its defaults are composed."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from qwen3emb_train.cli.programs import PROGRAMS
from qwen3emb_train.configuration.arguments import Request
from qwen3emb_train.configuration.compose import compose, load
from qwen3emb_train.configuration.config_files import config_directory, group_options

ROOT = Path(__file__).resolve().parent.parent.parent
# data_synth has a front door of its own and tests its recipes in tests/data_synth/test_main.py.
RECIPES = sorted(path for path in ROOT.glob("recipes/*/*.yaml") if not path.stem.endswith("_synthesize"))
ALL_FILES = sorted([*ROOT.glob("recipes/*/*.yaml"), *ROOT.glob("configs/**/*.yaml"), *ROOT.glob("scripts/**/*.yaml")])
# What each program cannot do without.
MANDATORY = {
    "train_embedding": ["model.path=m", "data.mine.path=d", "output_dir=o"],
    "train_reranker": ["model.path=m", "data.mine.path=d", "output_dir=o"],
    "plan": ["model.path=m", "data.mine.path=d", "output_dir=o"],
    "embed": ["model=m", "corpus=c", "output_dir=o"],
    "clean": ["examples=e", "output_dir=o"],
    "select_pairs": ["model=m", "examples=e", "output_dir=o"],
    "mine_negatives": ["model=m", "examples=e", "output_dir=o"],
    "merge": ["models=[a,b]", "output_dir=o"],
    "merge_search": ["models=[a,b]", "dev_sets.dev.path=d", "output_dir=o"],
    "export": ["model=m", "output_dir=o"],
    "export_reranker": ["model=m", "output_dir=o"],
    "export_onnx": ["model=m", "output_dir=o"],
    "export_gguf": ["model=m", "output_dir=o"],
    "verify": ["path=p"],
    "evaluate": ["models.mine=m", "sets.test.path=s", "output_dir=o"],
    "report": ["runs.mine=r", "output_dir=o"],
    "evaluate_mteb": ["model=m", "tasks=[NFCorpus]", "output_dir=o"],
    "search": ["model=m", "corpus=c", "query=q"],
    "convert_gguf": ["output_dir=o"],
}
CHOICES = [
    (program, group, option)
    for program in PROGRAMS
    for group, options in group_options(PROGRAMS[program]).items()
    for option in options
]
# Lines "key: number" and "key: [numbers]".
NUMBER = re.compile(r"^\s*\w+: \[?-?[\d.]+(e-?\d+)?\b")
ORIGIN = re.compile(r"\((report|VL report|released|other team|ours)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def program_of(recipe: Path) -> str:
    named = [item[1:] for item in yaml.safe_load(recipe.read_text())["defaults"] if isinstance(item, str)]
    (program,) = (name for name in named if name in PROGRAMS)
    return program


def compose_object(program: str, overrides: list[str], recipe: Path | None = None) -> tuple[Any, str]:
    where = (recipe.parent, recipe.stem) if recipe else (None, None)
    return compose(PROGRAMS[program], Request(overrides, *where))


def test_there_are_recipes() -> None:
    """Guards the parametrised tests below against an empty glob."""
    assert {path.parent.name for path in RECIPES} >= {"qwen3-embedding-0.6b", "tiny"}


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_every_recipe_composes_into_its_programs_dataclass(recipe: Path) -> None:
    config, text = compose_object(program_of(recipe), [], recipe)
    assert type(config) is load(PROGRAMS[program_of(recipe)].schema)
    assert "???" not in text


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_a_recipes_header_holds_the_command_that_runs_it(recipe: Path) -> None:
    header = recipe.read_text().split("\ndefaults:")[0]
    header = " ".join(line.lstrip("# ").rstrip("\\") for line in header.splitlines())
    command = re.escape(f"--config-dir recipes/{recipe.parent.name} --config-name {recipe.stem}").replace(r"\ ", r"\s+")
    assert re.search(rf"-m qwen3emb_train {program_of(recipe)}\s+{command}(\s|$)", header)


@pytest.mark.parametrize("script", sorted(ROOT.glob("recipes/*/run.sh")), ids=name_of)
def test_run_sh_names_every_stage_once_at_least_and_in_order(script: Path) -> None:
    named = re.findall(r"\b(\d_[a-z]+)\b(?!/)", re.sub(r"(?m)^\s*#.*$", "", script.read_text()))
    stages = [path.stem for path in sorted(script.parent.glob("[0-9]_*.yaml"))]
    assert list(dict.fromkeys(named)) == stages


def test_open_small_with_all_layers_composes_at_every_stage(tmp_path: Path) -> None:
    """Its commands, as a shell script in the interpreter's place sees them."""
    recorder, log = tmp_path / "python", tmp_path / "commands"
    recorder.write_text(f'#!/bin/bash\nprintf "%s\\x1f" "$@" >> {log}\necho >> {log}\n')
    recorder.chmod(0o755)
    environment = os.environ | {"ALL_LAYERS": "1", "PYTHON": str(recorder), "DATA": str(tmp_path)}
    subprocess.run([str(ROOT / "recipes" / "open-small" / "run.sh")], env=environment, check=True, capture_output=True)
    composed: dict[str, Any] = {}
    for line in log.read_text().splitlines():
        _, _, program, *rest = line.rstrip("\x1f").split("\x1f")
        if rest[0] == "--config-dir":
            recipe = ROOT / rest[1] / f"{rest[3]}.yaml"
            composed[recipe.stem] = compose_object(program, rest[4:], recipe)[0]
    assert [*composed] == [path.stem for path in sorted((ROOT / "recipes" / "open-small").glob("[0-9]_*.yaml"))]
    assert composed["1_pretrain"].model.num_layers is None
    assert composed["6_evaluate"].num_layers == {"backbone": 30}
    finetune = composed["3_finetune"]
    steps = [int(re.findall(r"step_(\d+)", model)[0]) for model in composed["4_merge"].models]
    assert steps == [finetune.save_every, finetune.steps], "what is merged are checkpoints that stage 2 writes"
    assert finetune.keep_last is None or finetune.keep_last >= 2


def test_every_number_of_the_reports_recipe_carries_its_origin() -> None:
    """What was never published must not look as if it had been."""
    files = [path for path in ALL_FILES if path.parent.name == "qwen3-embedding-0.6b" or path.stem.startswith("qwen3_")]
    bare = [
        f"{name_of(path)}: {line}"
        for path in files
        for line in path.read_text().splitlines()
        if NUMBER.match(line) and not ORIGIN.search(line)
    ]
    assert not bare
    assert len(files) >= 11


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_a_recipe_the_dataclasss_defaults_are_composed(program: str) -> None:
    """The files that are chosen by default add nothing: help shows the dataclass's defaults."""
    config, _ = compose_object(program, MANDATORY[program])
    given = OmegaConf.from_dotlist(MANDATORY[program])
    assert config == OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(load(PROGRAMS[program].schema)), given))


@pytest.mark.parametrize(("program", "group", "option"), CHOICES)
def test_every_choice_of_a_group_composes(program: str, group: str, option: str) -> None:
    config, _ = compose_object(program, [f"{group}={option}", *MANDATORY[program]])
    field = "loss" if group == "reranking_loss" else group
    kind = getattr(getattr(config, field), "kind", None)
    assert kind is None or kind.value == option


def test_the_reports_presets_say_what_the_reports_say() -> None:
    """Eq. 1 has five terms; the VL report drops q-q and d-d in its second stage."""
    first, _ = compose_object("train_embedding", ["loss=qwen3_infonce", *MANDATORY["train_embedding"]])
    second, _ = compose_object("train_embedding", ["loss=qwen3_vl_stage2", *MANDATORY["train_embedding"]])
    terms = ("positive_in_denominator", "hard_negatives", "query_query", "document_document", "query_document")
    assert [getattr(first.loss, term) for term in terms] == [True] * 5
    assert [getattr(second.loss, term) for term in terms] == [True, True, False, False, True]
    assert first.loss.false_negative_margin == second.loss.false_negative_margin == 0.1


@pytest.mark.parametrize("path", ALL_FILES, ids=name_of)
def test_no_file_names_code_to_run_or_reads_the_environment(path: Path) -> None:
    text = path.read_text()
    assert "_target_" not in text
    assert "oc.env" not in text
    assert "!!python" not in text


def test_the_launch_file_is_understood_by_accelerate() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / "scripts" / "launch" / "ddp.yaml"))
    assert config.distributed_type.value == "MULTI_GPU"
    assert config.mixed_precision == "no", "a second autocast around the program's own"


def test_the_configs_are_where_the_package_looks() -> None:
    assert config_directory() == ROOT / "configs"
