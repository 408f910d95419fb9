"""The command line: fast help, an unknown key is named with the nearest one, no configuration runs code."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_synth.__main__ import PROGRAM, main
from data_synth.config import SynthesisConfig
from qwen3emb_train.configuration.arguments import ConfigError, parse_arguments
from qwen3emb_train.configuration.compose import compose

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDED = ["documents.notes.path=x", "output_dir=o", "dry_run=true"]
PAYLOADS = [
    "_target_=os.system", "teacher._target_=os.system", "documents.notes._target_=subprocess.run",
    "retrieval.sampling={_target_: pandas.read_pickle}", "documents={notes: {_target_: joblib.load}}",
    "filters.language._target_=numpy.load", "output_dir=${oc.env:HOME}", "documents.notes.path=${oc.env:HOME}",
    "teacher.base_urls=['${oc.env:HOME}']", "tasks=['${oc.decode:x}']", "retrieval.instruction=${hydra:job.name}",
    "output_dir=!!python/object/apply:os.system [id]", "window=!!python/object/apply:os.getpid []",
    "retrieval.languages={en: !!python/name:os.system }",
]  # fmt: skip


def composed(*arguments: str) -> SynthesisConfig:
    config, _ = compose(PROGRAM, parse_arguments(PROGRAM, [*NEEDED, *arguments]))
    return config


def test_help_answers_before_anything_heavy_is_imported() -> None:
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        told = subprocess.run([sys.executable, "-m", "data_synth", "--help"], cwd=ROOT, capture_output=True, text=True)
        best = min(best, time.perf_counter() - started)
    assert told.returncode == 0
    for key in ("output_dir", "api_key_env", "cross_lingual_share", "decontamination", "num_processes", "dry_run"):
        assert key in told.stdout
    heavy = "'openai', 'numpy', 'omegaconf', 'hydra', 'torch'"
    code = f"import sys, data_synth.__main__; print([name for name in ({heavy}) if name in sys.modules])"
    seen = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"
    assert best < 3.0, "0.05 s on an idle machine; the bound leaves room for a busy one"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["documnts.notes.path=x"], "Did you mean documents.notes.path?"),
        (["documents.notes.pth=x"], "Did you mean documents.notes.path?"),
        (["retrieval.num_querys=2"], "Did you mean retrieval.num_queries?"),
        (["filters.decontamination.set=[a]"], "Did you mean filters.decontamination.sets?"),
        (["cross_lingual_share=0.1"], "Did you mean retrieval.cross_lingual_share?"),
        (["window=many"], "window"),
        (["window=.nan"], "finite"),
        (["teacher.routing=round"], "by_group"),
        (["tasks=[retrieval,tales]"], "no task 'tales'"),
        (["tasks=[retrieval,retrieval]"], "once"),
        (["retrieval.question_types={summry: 1}"], "question_types"),
        (["dry_run=false"], "teacher.model and teacher.base_urls"),
        (["teacher.request_seconds=0"], "request_seconds"),
        (["loose"], "cannot understand 'loose'"),
        (["--config-dir", "recipes/quickstart"], "go together"),
        (["--config-dir", "recipes/quickstart", "--config-name", "0_sythesize"], "0_synthesize"),
        (["--config-dir", "recipes/quickstart", "--config-name", "1_pretrain"], "no configuration of synthesize"),
    ],
)
def test_a_mistake_is_named_with_what_is_near(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main([*NEEDED, *arguments]) == 2
    assert expected in capsys.readouterr().err


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["documents.notes.path=x"]) == 2
    assert "missing: output_dir" in capsys.readouterr().err
    assert main(["output_dir=o", "dry_run=true"]) == 2
    assert "there is no source" in capsys.readouterr().err


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_configuration_runs_no_code_and_reads_no_environment(payload: str, tmp_path: Path) -> None:
    """From the command line or from a file. Text fields take what looks like YAML tags as the text it is."""
    key, _, value = payload.partition("=")
    if value.startswith("!!python") and key == "output_dir":
        assert composed(payload).output_dir == value
    else:
        with pytest.raises(ConfigError):
            composed(payload)
    nested = value
    for name in reversed(key.split(".")):
        nested = f"{{{name}: {nested}}}"
    (tmp_path / "evil.yaml").write_text(f"{nested[1:-1]}\ndefaults: [/synthesize, _self_]\n")
    with pytest.raises(ConfigError):
        compose(PROGRAM, parse_arguments(PROGRAM, ["--config-dir", str(tmp_path), "--config-name", "evil", *NEEDED]))


def test_a_whole_mix_replaces_the_default_and_a_single_weight_joins_it() -> None:
    assert composed("retrieval.languages={de: 1.0}").retrieval.languages == {"de": 1.0}
    assert composed("retrieval.languages.de=0.7").retrieval.languages["en"] == 0.3
    assert composed("retrieval.languages.de=0.7").retrieval.languages["de"] == 0.7
    assert composed().retrieval.languages["en"] == 0.3
    assert composed("retrieval={languages: {de: 1.0}, seed: 3}").retrieval.languages == {"de": 1.0}
    assert composed("retrieval.languages.de=0.7", "retrieval.languages={fr: 1.0}").retrieval.languages == {"fr": 1.0}
    assert composed('sts.positive_grades={"5": 1.0}').sts.positive_grades == {"5": 1.0}


def test_a_recipes_mix_replaces_the_default_and_is_replaced_by_the_command_lines(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [/synthesize, _self_]\nretrieval: {languages: {de: 1.0}}\n")
    recipe = ["--config-dir", str(tmp_path), "--config-name", "mine"]
    assert composed(*recipe).retrieval.languages == {"de": 1.0}
    assert composed(*recipe, "retrieval.languages.fr=0.5").retrieval.languages == {"de": 1.0, "fr": 0.5}
    assert composed(*recipe, "retrieval.languages={fr: 1.0}").retrieval.languages == {"fr": 1.0}


def test_text_is_taken_as_it_was_typed() -> None:
    assert composed("retrieval.instruction=Given a, find: [b] {c}").retrieval.instruction == "Given a, find: [b] {c}"
    assert composed("output_dir='a b'").output_dir == "a b"
    assert composed("teacher.api_key_env=null").teacher.api_key_env is None
    assert composed("documents.more.path=y").documents.keys() == {"notes", "more"}
    extra = '{"chat_template_kwargs": {"enable_thinking": false}}'
    assert composed(f"teacher.extra_body={extra}").teacher.extra_body == extra


def test_the_configuration_is_printed_without_running(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NEEDED, "window=7", "--cfg"]) == 0
    assert "window: 7" in capsys.readouterr().out


def test_recipes_of_this_program_compose() -> None:
    recipes = [path for path in ROOT.glob("recipes/*/*.yaml") if "defaults: [/synthesize" in path.read_text()]
    assert recipes
    for path in recipes:
        request = parse_arguments(PROGRAM, ["--config-dir", str(path.parent), "--config-name", path.stem])
        config, text = compose(PROGRAM, request)
        assert isinstance(config, SynthesisConfig)
        assert "???" not in text
        assert f"--config-dir recipes/{path.parent.name} --config-name {path.stem}" in path.read_text()
