"""The command line: help is instant, bad input ends with one clear message, no configuration runs code."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file

from qwen3emb_train.cli.front_door import main
from qwen3emb_train.cli.programs import PROGRAMS
from tests.tiny import make_tiny_model_directory

Refused = Callable[..., str]
TRAIN = ["train_embedding", "model.path=m", "data.mine.path=d", "output_dir=o"]
EXPORT = ["export", "model=m", "output_dir=o"]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail; returns what it said on stderr."""

    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return captured.err

    return run


# ---------------------------------------------------------------------------------------------------------------- help


def test_help_needs_neither_torch_nor_hydra() -> None:
    """A fresh interpreter, because this one has imported everything."""
    script = """
import sys
from qwen3emb_train.cli.front_door import main
from qwen3emb_train.cli.programs import PROGRAMS
assert main([]) == main(["--help"]) == 0
assert all(main([program, "--help"]) == 0 for program in PROGRAMS)
assert main(["trian_embedding"]) == 2
print(sorted({"torch", "hydra", "omegaconf", "transformers", "numpy", "accelerate"} & set(sys.modules)))
"""
    root = Path(__file__).resolve().parent.parent.parent
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert finished.stdout.splitlines()[-1] == "[]"


def test_the_overview_names_every_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {program.name} " in shown and program.summary in shown for program in PROGRAMS.values())


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=lambda program: program.name)
def test_help_shows_example_keys_and_choices(program, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    assert main([program.name, "model=x", "--help"]) == 0
    shown = capsys.readouterr().out
    assert program.example in shown
    assert "  output_dir=..." in shown or program.name in ("plan", "search", "verify")
    if program.name == "train_embedding":
        for choice in ("infonce", "distillation", "qwen3_infonce", "qwen3_vl_stage2"):
            assert f"\n  {choice}  " in shown
        assert "loss.temperature=0.02" in shown
        assert "  model.path=..." in shown, "keys of the groups are keys too"


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=lambda program: program.name)
def test_the_examples_are_accepted(program, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    import shlex

    assert main([*shlex.split(program.example)[3:], "--cfg"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)


# ------------------------------------------------------------------------------------------------------ configurations


def test_cfg_prints_the_configuration_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "optimizer.lr=3e-4", "loss.temperature=0.05", "--cfg", "job"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["optimizer"]["lr"] == 3e-4
    assert shown["loss"]["temperature"] == 0.05
    assert shown["model"]["path"] == "m"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_a_data_source_is_added_by_naming_it(plus: str, capsys: pytest.CaptureFixture[str]) -> None:
    source_given = [f"{plus}data.mine.path=d", f"{plus}data.mine.weight=2"]
    assert main(["train_embedding", "model.path=m", "output_dir=o", *source_given, "--cfg"]) == 0
    source = yaml.safe_load(capsys.readouterr().out)["data"]["mine"]
    assert (source["path"], source["weight"], source["task"]) == ("d", 2.0, "retrieval")


def test_a_source_of_a_recipe_keeps_what_is_not_overridden(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {
        "defaults": ["/train_embedding", "_self_"], "model": {"path": "m"}, "output_dir": "o",
        "data": {"mine": {"path": "d", "weight": 3.0}},
    }  # fmt: skip
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(recipe))
    named = ["--config-dir", str(tmp_path), "--config-name=stage"]
    assert main(["train_embedding", *named, "data.mine.path=e", "data.other.path=f", "--cfg"]) == 0
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    assert (data["mine"]["path"], data["mine"]["weight"]) == ("e", 3.0)
    assert data["other"]["path"] == "f"


@pytest.mark.parametrize("text", ["what's this, then? [x] (y)", "a=b, c", "outputs/a b", "42", "a~/x", "[1,2]"])
def test_text_is_taken_as_typed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``model=`` is no choice of the group of that name, and a query may hold commas and brackets."""
    assert main(["search", f"model={text}", "corpus=c", f"query={text}", "--cfg"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["model"], shown["query"], shown["instruction"]) == (text, text, None)


def test_null_empties_an_optional_text(capsys: pytest.CaptureFixture[str], refused: Refused) -> None:
    assert main(["search", "model=m", "corpus=c", "query='q'", "instruction=null", "--cfg"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["query"], shown["instruction"]) == ("q", None)
    assert "not" in refused(*EXPORT, "output_dir=null")


def test_the_groups_choose_whole_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "model=qwen3_0.6b", "loss=qwen3_vl_stage2", "schedule=wsd", "--cfg"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["path"] == "m", "a single key goes before the block that it belongs to"
    assert (shown["loss"]["query_query"], shown["schedule"]["kind"]) == (False, "wsd")


BAD_CONFIGURATIONS = [
    (["trian_embedding"], "there is no program 'trian_embedding'. Did you mean 'train_embedding'?"),
    ([*TRAIN, "optimzer.lr=1"], "Did you mean optimizer.lr?"),
    ([*TRAIN, "loss.temprature=1"], "Did you mean loss.temperature?"),
    ([*TRAIN, "data.mine.pth=x"], "Did you mean data.mine.path?"),
    ([*TRAIN, "optimizer.lr=fast"], "Value 'fast' of type 'str' could not be converted to Float"),
    ([*TRAIN, "seed=1.5"], "could not be converted to Integer"),
    ([*TRAIN, "precision=fp16"], "Invalid value 'fp16', expected one of [auto, fp32, bf16]"),
    ([*TRAIN, "loss=foo"], "infonce"),
    ([*TRAIN, "batch_size=1"], "batch_size is 1; it must be at least 2."),
    ([*TRAIN, "loss.temperature=0"], "temperature=0.0 of InfoNCE must be positive"),
    ([*TRAIN, "data.mine.weight=nan"], "data.mine.weight is nan: give a finite number"),
    (TRAIN[:-1], "missing: output_dir. Give it as key=value"),
    (["train_embedding", "output_dir=o"], "missing: model.path."),
    (["export", "output_dir=o"], "missing: model."),
    ([*EXPORT, "dtype=bf16"], "expected one of [float32, bfloat16, float16]"),
    ([*EXPORT, "verify"], "cannot understand 'verify': give key=value"),
    ([*EXPORT, "--multirun"], "cannot understand '--multirun'"),
    ([*EXPORT, "hydra.searchpath=[pkg://this]"], "Hydra's own settings are not used here"),
    ([*EXPORT, "output_dir=${oc.env:HOME}"], "output_dir is ${oc.env:HOME}"),
    (["export", "--config-dir", "/no/such"], "/no/such: no such directory"),
    (["export", "--config-name"], "--config-name needs a value"),
    (["evaluate", "output_dir=o"], "models is empty: name at least one"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_CONFIGURATIONS, ids=lambda value: str(value)[-40:])
def test_a_bad_configuration_is_refused_with_its_key_and_remedy(
    arguments: list[str], message: str, refused: Refused
) -> None:
    assert message in refused(*arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults: [/export, _self_]\nmodle: m\noutput_dir: o\n", "Did you mean model?"),
        ("defaults: [/export\nmodel: [", "not readable as YAML"),
        ("model: m\noutput_dir: o\n", "begin it with 'defaults: [/export, _self_]'"),
        ("defaults: [/train_embedding, _self_]\n", "is no configuration of export"),
        ("defaults: [/export, _self_]\nmodel: ${oc.env:HOME}\noutput_dir: o\n", "model is ${oc.env:HOME}"),
        ("defaults: [/export, _self_]\nmodel: ${nothing}\noutput_dir: o\n", "Interpolation key 'nothing' not found"),
    ],
)
def test_a_bad_recipe_is_refused(text: str, message: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "stage.yaml").write_text(text)
    assert message in refused("export", "--config-dir", tmp_path, "--config-name", "stage")
    assert "There are: stage" in refused("export", "--config-dir", tmp_path, "--config-name", "stgae")


# The last five pass the block list of Hydra 1.3.3's own instantiate.
TARGETS = [
    "os.system", "subprocess.run", "builtins.eval", "pickle.load", "torch.load",
    "pandas.read_pickle", "joblib.load", "numpy.load", "sympy.sympify", "distutils.spawn.spawn",
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_a_configuration_never_names_code(target: str, tmp_path: Path, refused: Refused) -> None:
    """On the command line, at every level of a recipe, under names that are the user's own."""
    canary = tmp_path / "canary"
    call: dict[str, Any] = {"_target_": target, "_args_": [f"touch {canary}"]}
    for key in ("_target_", "+_target_", "prompts._target_", "++model._target_"):
        assert "_target_" in refused(*EXPORT, f"{key}={target}")
    for key in ("+model._target_", "++loss._target_", "data.x._target_", "data._target_.path"):
        assert "_target_" in refused(*TRAIN, f"{key}={target}")
    recipes = [
        ("export", {"model": "m", "output_dir": "o", **call}),
        ("export", {"model": call, "output_dir": "o"}),
        ("export", {"model": "m", "output_dir": "o", "prompts": {"_target_": target}}),
        ("train_embedding", {"model": {"path": "m", **call}, "output_dir": "o"}),
        ("train_embedding", {"model": {"path": "m"}, "output_dir": "o", "data": {"mine": {"path": "d", **call}}}),
        ("train_embedding", {"model": {"path": "m"}, "output_dir": "o", "loss": call}),
    ]
    for program, recipe in recipes:
        (tmp_path / "stage.yaml").write_text(yaml.safe_dump({"defaults": [f"/{program}", "_self_"], **recipe}))
        refused(program, "--config-dir", tmp_path, "--config-name", "stage")
    assert not canary.exists()


def test_yaml_tags_run_nothing(tmp_path: Path, refused: Refused) -> None:
    canary = tmp_path / "canary"
    tagged = f"defaults: [/export, _self_]\noutput_dir: o\nmodel: !!python/object/apply:os.system ['touch {canary}']\n"
    (tmp_path / "stage.yaml").write_text(tagged)
    assert "python/object" in refused("export", "--config-dir", tmp_path, "--config-name", "stage")
    assert not canary.exists()


# ---------------------------------------------------------------------------------------------------------- bad inputs


def train(data: Path, model: Path, tmp_path: Path) -> list[str]:
    return [
        "train_embedding", f"model.path={model}", f"data.mine.path={data}", f"output_dir={tmp_path / 'out'}",
        f"cache_dir={tmp_path / 'cache'}", "batch_size=2", "steps=1", "device=cpu", "precision=fp32",
    ]  # fmt: skip


GOOD = '{"query": "q1", "positive": "p1"}\n'
BAD_LINES = [
    ('{"query": "q2", "positive": "p2"\n', ["line: is not JSON", "jq -c"]),
    ('{"query": "q2", "positives": []}\n', ["positives: there is no positive", "at least one relevant document"]),
    ('{"query": "q2", "positive": "  "}\n', ["positive: is empty", "Give a text"]),
    ('{"query": "q", "positive": "p", "negatives": ["n", "p "]}\n', ["negatives[1]: is equal to a positive", "Remove"]),
    ('{"query": "q", "positive": "p", "negativs": ["n"]}\n', ["negativs: is not a known field", "mean negatives?"]),
    ('{"query": "q2", "positive": "p", "scores": [NaN]}\n', ["holds NaN", "finite number"]),
    ('{"query": 7, "positive": "p"}\n', ["query: should be a text, but is int 7"]),
]  # fmt: skip


@pytest.mark.parametrize(("line", "messages"), BAD_LINES, ids=[messages[0] for _, messages in BAD_LINES])
def test_a_bad_line_is_named_by_file_line_and_field(
    line: str, messages: list[str], tmp_path: Path, tiny_qwen3: Path, refused: Refused
) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text(GOOD + line)
    said = refused(*train(data, tiny_qwen3, tmp_path))
    assert f"{data}:2: " in said
    assert all(message in said for message in messages)
    assert not (tmp_path / "out").exists(), "a refused run leaves nothing behind"


def test_a_missing_file_is_named(tmp_path: Path, tiny_qwen3: Path, refused: Refused) -> None:
    missing = tmp_path / "nothing.jsonl"
    assert f"{missing}: no such file" in refused(*train(missing, tiny_qwen3, tmp_path))
    (tmp_path / "pairs.jsonl").write_text(GOOD * 2)
    said = refused(*train(tmp_path / "pairs.jsonl", tmp_path / "no" / "model", tmp_path))
    assert str(tmp_path / "no" / "model") in said


def test_a_weight_that_is_not_a_number_is_named(tmp_path: Path, refused: Refused) -> None:
    model = make_tiny_model_directory(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["norm.weight"][3] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "pairs.jsonl").write_text(GOOD + GOOD.replace("1", "2"))
    for command in (
        train(tmp_path / "pairs.jsonl", model, tmp_path),
        ["export", f"model={model}", f"output_dir={tmp_path / 'export'}"],
        ["merge", f"models=[{model},{model}]", f"output_dir={tmp_path / 'merged'}"],
    ):
        said = refused(*command)
        assert "norm.weight" in said
        assert "NaN" in said or "finite" in said
    assert not (tmp_path / "export").exists()
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(("rank", "prefix"), [(None, "error: "), ("0", "error: "), ("3", "[rank 3] error: ")])
def test_other_ranks_say_who_they_are(
    rank: str | None, prefix: str, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert refused("nothing").startswith(prefix)


def test_the_debug_variable_shows_where_it_was_raised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QWEN3EMB_DEBUG", "1")
    assert main([*TRAIN, "batch_size=1"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_one_process_where_several_were_asked_for_is_refused(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``accelerate launch --cpu --num_processes 2`` leaves in the environment of the one process it starts."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert "torchrun --nproc_per_node 2" in refused(*TRAIN)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "torchrun" not in refused(*TRAIN)
