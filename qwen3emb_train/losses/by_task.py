"""Which loss trains which task.

The Qwen3-Embedding report (arXiv 2506.05176) trains every task with Eq. 1. Its successor (arXiv 2601.04720) has
separate losses for similarity, classification and reranker scores. That is the default here; ``tasks_with_main_loss``
reverts it task by task.
"""

from dataclasses import dataclass, field

from qwen3emb_train.losses.clustering import Clustering
from qwen3emb_train.losses.cosent import CoSENT
from qwen3emb_train.losses.distillation import Distillation
from qwen3emb_train.losses.embedding_loss import EmbeddingLoss
from qwen3emb_train.losses.label_contrast import LabelContrast
from qwen3emb_train.losses.spread_out import SpreadOut
from qwen3emb_train.losses.weighted_sum import WeightedSum

OWN_LOSS = ("sts", "classification", "clustering")
"""The tasks that have a loss of their own, which are also the names of its fields in ``TaskLosses``."""


@dataclass
class TaskLosses:
    """The losses of tasks that do not use the run's main loss, and additional loss terms.

    Attributes:
        tasks_with_main_loss: the tasks trained with the run's main loss. Listing sts, classification or clustering here
            turns their own loss off; any other name defines a further task.
        sts: for pairs with scores.
        classification: for texts with right and wrong labels.
        clustering: for texts with a text, or the name, of their cluster.
        distillation: matches stored teacher scores, in the tasks of ``tasks_with_main_loss`` but sts, whose scores
            do not come from a teacher.
        distillation_weight: weight of distillation relative to the task's loss; 0 = off.
        spread_out: spread-out regulariser, in every task.
        spread_out_weight: its weight relative to the task's loss; 0 = off.

    Raises:
        ValueError: a weight is negative.
    """

    tasks_with_main_loss: list[str] = field(default_factory=lambda: ["retrieval", "bitext", "code", "unknown"])
    sts: CoSENT = field(default_factory=CoSENT)
    classification: LabelContrast = field(default_factory=LabelContrast)
    clustering: Clustering = field(default_factory=Clustering)
    distillation: Distillation = field(default_factory=Distillation)
    distillation_weight: float = 0.0
    spread_out: SpreadOut = field(default_factory=SpreadOut)
    spread_out_weight: float = 0.0

    def __post_init__(self) -> None:
        for key in ("distillation_weight", "spread_out_weight"):
            if not getattr(self, key) >= 0:
                raise ValueError(f"task_losses.{key}={getattr(self, key)} must be 0 (off) or more.")


def loss_of_task(task: str, loss: EmbeddingLoss, task_losses: TaskLosses) -> EmbeddingLoss:
    """The loss of a step of ``task``.

    Args:
        task: the task of all rows of the step.
        loss: the run's main loss.
        task_losses: losses of the other tasks, and the additional terms.

    Raises:
        ValueError: the task is unknown.
    """
    own = task not in task_losses.tasks_with_main_loss
    if own and task not in OWN_LOSS:
        known = ", ".join(dict.fromkeys([*task_losses.tasks_with_main_loss, *OWN_LOSS]))
        raise ValueError(
            f"Task {task!r} has no loss. Known: {known}. Name one of these as the rows' task, or add this one to "
            "task_losses.tasks_with_main_loss to train it with the run's main loss."
        )
    main: EmbeddingLoss = getattr(task_losses, task) if own else loss
    additions: dict[str, tuple[float, EmbeddingLoss]] = {}
    if task_losses.distillation_weight and not own and task != "sts":
        additions["distillation"] = (task_losses.distillation_weight, task_losses.distillation)
    if task_losses.spread_out_weight:
        additions["spread_out"] = (task_losses.spread_out_weight, task_losses.spread_out)
    return WeightedSum(main, additions) if additions else main
