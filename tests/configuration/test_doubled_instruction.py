"""The template is added once: no setting takes an instruction that brings it along."""

from collections.abc import Callable

import pytest

from qwen3emb_train.curation.selection.config import SelectPairsConfig
from qwen3emb_train.data.mixture import SourceConfig
from qwen3emb_train.evaluation.config import SetConfig
from qwen3emb_train.evaluation.mteb_local import LocalSetConfig
from qwen3emb_train.evaluation.mteb_tasks import EvaluateMtebConfig
from qwen3emb_train.evaluation.search import SearchConfig
from qwen3emb_train.export.cross_encoder import ExportRerankerConfig
from qwen3emb_train.export.sentence_transformers import ExportConfig
from qwen3emb_train.index.embed import EmbedCorpusConfig
from qwen3emb_train.index.embed_config import TextRole
from qwen3emb_train.merging.self_positioning import ProbeConfig
from qwen3emb_train.mining.config import MiningConfig
from qwen3emb_train.training.retrieval_validation import ValidationSetConfig

SETTINGS: list[tuple[str, Callable[[str], object]]] = [
    ("data.*.instruction", lambda text: SourceConfig(instruction=text)),
    ("eval_sets.*.instruction", lambda text: ValidationSetConfig(instruction=text)),
    ("sets.*.instruction", lambda text: SetConfig(instruction=text)),
    ("local_sets.*.instruction", lambda text: LocalSetConfig(instruction=text)),
    ("instructions.T", lambda text: EvaluateMtebConfig(tasks=["T"], instructions={"T": text})),
    ("default_instruction", lambda text: EvaluateMtebConfig(tasks=["T"], default_instruction=text)),
    ("instruction", lambda text: SearchConfig(query="q", instruction=text)),
    ("instruction", lambda text: EmbedCorpusConfig(role=TextRole.query, instruction=text)),
    ("instruction", lambda text: MiningConfig(instruction=text)),
    ("instruction", lambda text: SelectPairsConfig(instruction=text)),
    ("probe.instruction", lambda text: ProbeConfig(instruction=text)),
    ("query_instruction", lambda text: ExportConfig(query_instruction=text)),
    ("instructions.faq", lambda text: ExportConfig(instructions={"faq": text})),
    ("instruction", lambda text: ExportRerankerConfig(instruction=text)),
]


@pytest.mark.parametrize(("key", "configure"), SETTINGS)
def test_an_instruction_with_the_template_is_refused_wherever_it_is_set(
    key: str, configure: Callable[[str], object]
) -> None:
    configure("find the answer")
    for doubled in ("Instruct: find the answer", "  Instruct:find\nQuery:"):
        with pytest.raises(ValueError, match="already contains the template") as refused:
            configure(doubled)
        assert str(refused.value).startswith(f"{key} is {doubled!r}")
        assert str(refused.value).endswith('Give only the sentence that follows "Instruct:".')
