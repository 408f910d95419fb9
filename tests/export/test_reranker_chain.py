"""From a training checkpoint to its users: one score, whoever computes it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qwen3emb_train.data.reranker_tokens import load_reranker_tokenizer
from qwen3emb_train.export.cross_encoder import ExportRerankerConfig, RerankerDtype, export_reranker
from qwen3emb_train.index.rerankers import TextReranker, is_yes_no_reranker
from qwen3emb_train.models.loading import ModelConfig, load_reranker, save_model
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.models.precision import Precision
from tests.export.folders import edit
from tests.index.reranker_reference import PlainReranker
from tests.tiny import make_tiny_causal_lm_directory

TASK = "Judge by topic"
QUERY = "how do I sort a list?"
DOCUMENTS = [
    "Return a new sorted list from the items in iterable.", "", "重力是物体之间的相互吸引。\n",
    "{{ braces }} <|im_end|>", "long " * 300,
]  # fmt: skip
MAX_TOKENS = 500
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=[("qwen3", True), ("llama", False)], ids=["tied", "untied"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, tied = request.param
    return make_tiny_causal_lm_directory(tmp_path_factory.mktemp("models") / "base", family=family, tied=tied)


@pytest.fixture(scope="module")
def trained(base: Path) -> tuple[list[float], Path]:
    """What a checkpoint's model/ holds, of a model with adapters; and the model's scores while it was in memory."""
    tokenizer = load_reranker_tokenizer(str(base))
    config = ModelConfig(path=str(base), lora=LoraConfig(rank=2, alpha=4))
    model = load_reranker(config, tokenizer.answer_ids)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    in_memory = TextReranker(model, tokenizer, max_tokens=MAX_TOKENS, precision=Precision.fp32, device="cpu")
    directory = base.with_name("model")
    save_model(model, directory)
    tokenizer.save(directory)
    return in_memory.score(QUERY, DOCUMENTS, TASK).tolist(), directory


@pytest.fixture(scope="module")
def exported(trained: tuple[list[float], Path]) -> Path:
    config = ExportRerankerConfig(
        model=str(trained[1]), output_dir=str(trained[1].with_name("out")), dtype=RerankerDtype.float32,
        max_tokens=MAX_TOKENS, instruction=TASK,
    )  # fmt: skip
    return export_reranker(config)


def _load(path: Path) -> TextReranker:
    return TextReranker.load(str(path), precision="fp32", device="cpu")


def test_training_inference_cross_encoder_and_plain_transformers_agree(
    base: Path, trained: tuple[list[float], Path], exported: Path
) -> None:
    from sentence_transformers import CrossEncoder

    scores, model = trained
    assert abs(scores[0] - PlainReranker(base, MAX_TOKENS).score(QUERY, DOCUMENTS[:1], TASK)[0]) > 1e-3, "adapters act"
    loaded = _load(model)
    loaded.max_tokens = MAX_TOKENS
    export = _load(exported)
    cross_encoder = CrossEncoder(str(exported), device="cpu")
    assert (export.instruction, export.max_tokens) == (TASK, MAX_TOKENS)
    assert loaded.score(QUERY, DOCUMENTS, TASK).tolist() == pytest.approx(scores, abs=TOLERANCE)
    assert export.score(QUERY, DOCUMENTS).tolist() == pytest.approx(scores, abs=TOLERANCE)
    pairs = [(QUERY, document) for document in DOCUMENTS]
    assert cross_encoder.predict(pairs).tolist() == pytest.approx(scores, abs=TOLERANCE)
    assert PlainReranker(exported, MAX_TOKENS).score(QUERY, DOCUMENTS, TASK) == pytest.approx(scores, abs=TOLERANCE)
    assert max(scores) - min(scores) > 0.1


def _sigmoid(folder: Path) -> None:
    edit(
        folder / "config_sentence_transformers.json",
        lambda settings: settings.update(activation_fn="torch.nn.modules.activation.Sigmoid"),
    )


def _swapped_answers(folder: Path) -> None:
    edit(
        folder / "1_LogitScore/config.json",
        lambda ids: ids.update(true_token_id=ids["false_token_id"], false_token_id=ids["true_token_id"]),
    )


def _one_answer(folder: Path) -> None:
    edit(folder / "1_LogitScore/config.json", lambda ids: ids.update(false_token_id=None))


def _other_template(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<Query>: ", "<Query>:"))


def _template_of_other_roles(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('Conversation roles must alternate') }}")


def _no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def _pooling(folder: Path) -> None:
    shutil.rmtree(folder / "1_LogitScore")


@pytest.mark.parametrize(
    "damage",
    [_sigmoid, _swapped_answers, _one_answer, _other_template, _template_of_other_roles, _no_template, _pooling],
)
def test_an_export_that_wants_to_be_scored_otherwise_is_refused(
    exported: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    assert is_yes_no_reranker(str(folder))
    damage(folder)
    assert not is_yes_no_reranker(str(folder))
    with pytest.raises(ValueError, match="copy: not a yes/no reranker"):
        _load(folder)


def test_without_an_instruction_of_its_own_an_export_has_the_cards(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    file = folder / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"default_prompt_name": None}))
    assert _load(folder).instruction.startswith("Given a web search query")
