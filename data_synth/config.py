"""The settings of a synthesis. Those of its parts are documented in the classes of the parts."""

from dataclasses import dataclass, field

from data_synth.documents import DocumentsConfig
from data_synth.filters.chain import FilterConfig
from data_synth.judge import JudgeConfig
from data_synth.personas import PersonasConfig
from data_synth.progress import PricesConfig
from data_synth.tasks.bitext import BitextConfig
from data_synth.tasks.classification import ClassificationConfig
from data_synth.tasks.code import CodeConfig
from data_synth.tasks.instructions import InstructionsConfig
from data_synth.tasks.retrieval import RetrievalConfig
from data_synth.tasks.sts import StsConfig
from data_synth.teachers.settings import TeacherConfig

TASKS = ("instructions", "retrieval", "code", "bitext", "sts", "classification")


@dataclass
class DryRunConfig:
    """What ``dry_run=true`` assumes.

    Attributes:
        num_items: items of each task whose prompts are rendered; the rest is counted and takes their mean.
        completion_tokens: tokens of a reply.
    """

    num_items: int = 200
    completion_tokens: int = 64

    def __post_init__(self) -> None:
        if self.num_items < 1 or self.completion_tokens < 1:
            raise ValueError("estimate.num_items and estimate.completion_tokens count: give at least 1.")


@dataclass
class SynthesisConfig:
    """Settings of ``python -m data_synth``.

    Attributes:
        output_dir: gets TASK/examples/ (what trains), TASK/provenance/, TASK/rejected/, stats.json, report.html and
            run.json; ledger/ and passages/ are the memory of a run that was stopped.
        documents: sources by name: documents.handbook.path=docs/ adds one.
        teacher: OpenAI-compatible servers with one model: vLLM, SGLang, llama.cpp, TGI, a vendor's.
        tasks: what is made of the passages: any of instructions, retrieval, code, bitext, sts, classification.
        personas: candidates for who would ask about a passage.
        retrieval: passage -> persona, type, difficulty -> query.
        code: function -> question.
        bitext: sentences -> translation.
        sts: sentence -> sentences of graded similarity, with scores.
        classification: subject -> text, label, confusable labels.
        instructions: some passages of a source -> the sentence that its retrieval and code rows carry.
        judge: the teacher rates its rows in a further call.
        filters: which rows are set aside, when results are published: change them and start again, no request is
            repeated.
        prices: what the teacher costs, in any currency; 0 for a server of one's own.
        window: items in progress at once.
        process_index: which of num_processes this process is, from 0.
        num_processes: processes that share the work. Shares publish nothing; a last start with num_processes=1 does
            what is left and publishes.
        retry_failed: try items again that the teacher gave up on in an earlier run.
        partial: publish what there is though items are left, in a run that was stopped.
        rows_per_file: lines of a file of examples.
        dry_run: render prompts and count tokens and costs; ask nobody.
        estimate: what a dry run renders and assumes.
    """

    output_dir: str
    documents: dict[str, DocumentsConfig] = field(default_factory=dict)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    tasks: list[str] = field(default_factory=lambda: ["retrieval"])
    personas: PersonasConfig = field(default_factory=PersonasConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    code: CodeConfig = field(default_factory=CodeConfig)
    bitext: BitextConfig = field(default_factory=BitextConfig)
    sts: StsConfig = field(default_factory=StsConfig)
    classification: ClassificationConfig = field(default_factory=ClassificationConfig)
    instructions: InstructionsConfig = field(default_factory=InstructionsConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    prices: PricesConfig = field(default_factory=PricesConfig)
    window: int = 512
    process_index: int = 0
    num_processes: int = 1
    retry_failed: bool = False
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
        if not self.dry_run and not (self.teacher.model and self.teacher.base_urls):
            raise ValueError(
                "teacher.model and teacher.base_urls say who is asked; set both, e.g. "
                "teacher.base_urls=[http://localhost:8000/v1] teacher.model=Qwen/Qwen3-32B (or dry_run=true)."
            )
        if self.rows_per_file < 1:
            raise ValueError(f"rows_per_file={self.rows_per_file}: give at least 1.")
