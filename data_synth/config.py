"""The settings of a synthesis. Those of its parts are documented in their classes."""

from dataclasses import dataclass, field

from data_synth.brake import BrakeConfig
from data_synth.documents import DocumentsConfig
from data_synth.engines import Engine
from data_synth.filters.chain import FilterConfig
from data_synth.judge import JudgeConfig
from data_synth.personas import PersonasConfig
from data_synth.progress import PricesConfig
from data_synth.tasks.bitext import BitextConfig
from data_synth.tasks.classification import ClassificationConfig
from data_synth.tasks.code import CodeConfig
from data_synth.tasks.instructed import InstructedConfig
from data_synth.tasks.instructions import InstructionsConfig
from data_synth.tasks.reasoning import ReasoningConfig
from data_synth.tasks.retrieval import RetrievalConfig
from data_synth.tasks.sts import StsConfig
from data_synth.teachers.ray_rounds import RayConfig
from data_synth.teachers.settings import TeacherConfig

TASKS = ("instructions", "retrieval", "code", "bitext", "sts", "classification", "instructed", "reasoning")


@dataclass
class DryRunConfig:
    """Settings of ``dry_run=true``.

    Attributes:
        num_items: items of each task whose prompts are rendered; the rest are counted and estimated by their mean.
        completion_tokens: assumed tokens of a reply.
    """

    num_items: int = 200
    completion_tokens: int = 64

    def __post_init__(self) -> None:
        if self.num_items < 1 or self.completion_tokens < 1:
            raise ValueError("estimate.num_items and estimate.completion_tokens: give at least 1.")


@dataclass
class SynthesisConfig:
    """Settings of ``python -m data_synth``.

    Attributes:
        output_dir: gets TASK/examples/ (training data), TASK/provenance/, TASK/rejected/, stats.json, report.html and
            run.json; ledger/ and passages/ are the state for restarts.
        documents: sources by name: documents.handbook.path=docs/ adds one.
        teacher: OpenAI-compatible servers with one model: vLLM, SGLang, llama.cpp, TGI, a vendor's.
        engine: how the teacher is asked. http: servers. ray: vLLM within Ray Data, without a server. batch: request
            files for a Batch API are written below batches/, and its result files are read there.
        ray: settings of engine=ray.
        tasks: any of instructions, retrieval, code, bitext, sts, classification, instructed, reasoning.
        personas: candidates for the person who asks about a passage.
        retrieval: passage -> persona, type, difficulty -> query.
        code: function -> question.
        bitext: sentences -> translation.
        sts: sentence -> sentences of graded similarity, with scores.
        classification: subject -> text, label, confusable labels.
        instructed: passage -> query, an instruction that narrows it, passages that answer the query only.
        reasoning: passage -> a problem that it helps to solve, passages that sound like the problem and do not help.
        instructions: sample passages of a source -> the instructions of its retrieval and code rows.
        judge: the teacher rates its rows in a further call.
        filters: which rows are rejected at publication; changing them needs no new requests.
        prices: of the teacher, in any currency; 0 for your own server.
        window: maximum number of items in progress.
        process_index: which of num_processes this process is, from 0.
        num_processes: processes that share the work. They do not publish; a last start with num_processes=1 does the
            remaining items and publishes.
        filter_processes: processes that filter and compare rows at publication; null = one for each core. The result is
            the same.
        retry_failed: try items again that the teacher gave up on in an earlier run.
        retry_rejected: ask again what was rejected in an earlier run for these reasons, [reply_cut, schema], or [all];
            for a teacher that was set right on its server. Filters are not meant: they can be changed at no cost.
        brake: stops a task whose replies are not accepted, before all are bought.
        partial: publish although some items have not ended, after a run that was stopped.
        rows_per_file: lines per file of examples.
        dry_run: render prompts and estimate tokens and costs; no requests.
        estimate: settings of the dry run.
    """

    output_dir: str
    documents: dict[str, DocumentsConfig] = field(default_factory=dict)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    engine: Engine = Engine.http
    ray: RayConfig = field(default_factory=RayConfig)
    tasks: list[str] = field(default_factory=lambda: ["retrieval"])
    personas: PersonasConfig = field(default_factory=PersonasConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    code: CodeConfig = field(default_factory=CodeConfig)
    bitext: BitextConfig = field(default_factory=BitextConfig)
    sts: StsConfig = field(default_factory=StsConfig)
    classification: ClassificationConfig = field(default_factory=ClassificationConfig)
    instructed: InstructedConfig = field(default_factory=InstructedConfig)
    reasoning: ReasoningConfig = field(default_factory=ReasoningConfig)
    instructions: InstructionsConfig = field(default_factory=InstructionsConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    prices: PricesConfig = field(default_factory=PricesConfig)
    window: int = 512
    process_index: int = 0
    num_processes: int = 1
    filter_processes: int | None = None
    retry_failed: bool = False
    retry_rejected: list[str] = field(default_factory=list)
    brake: BrakeConfig = field(default_factory=BrakeConfig)
    partial: bool = False
    rows_per_file: int = 100_000
    dry_run: bool = False
    estimate: DryRunConfig = field(default_factory=DryRunConfig)

    def __post_init__(self) -> None:
        if unknown := [task for task in self.tasks if task not in TASKS]:
            raise ValueError(f"tasks: there is no task {unknown[0]!r}. There are {', '.join(TASKS)}.")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks={self.tasks}: name each task once, and at least one of {', '.join(TASKS)}.")
        if not self.documents:
            raise ValueError("documents: there is no source. Name one: documents.handbook.path=docs/.")
        if not self.dry_run and self.engine is not Engine.http and not self.teacher.model:
            raise ValueError(f"teacher.model is required for engine={self.engine.value}; set it.")
        if not self.dry_run and self.engine is Engine.http and not (self.teacher.model and self.teacher.base_urls):
            raise ValueError(
                "teacher.model and teacher.base_urls are required; set both, e.g. "
                "teacher.base_urls=[http://localhost:8000/v1] teacher.model=Qwen/Qwen3-32B (or dry_run=true)."
            )
        if self.filter_processes is not None and self.filter_processes < 1:
            raise ValueError(f"filter_processes={self.filter_processes}: give at least 1, or null.")
        if self.rows_per_file < 1:
            raise ValueError(f"rows_per_file={self.rows_per_file}: give at least 1.")
