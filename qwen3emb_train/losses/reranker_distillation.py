"""A larger reranker's stored scores as the target of a smaller one's. Beyond the report.

The teacher's scores are logits, like the student's, divided by ``teacher_temperature``. Three forms:

- ``kl``: KL(softmax(teacher) || softmax(student / temperature)) over a query's scored documents. Only differences
  within a query count, so a constant bias of the teacher has no effect, and the student's P(yes) may drift (see
  ``list_wise``);
- ``mse``: the squared difference of the two logits, document by document;
- ``bce``: binary cross-entropy with P(yes) of the teacher as a soft label, document by document.
"""

from dataclasses import dataclass
from enum import Enum

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from qwen3emb_train.losses import ragged
from qwen3emb_train.losses.reranker_logits import RerankerLogits, Targets
from qwen3emb_train.losses.reranking_loss import RerankingLoss
from qwen3emb_train.losses.temperature import require_temperature


class TeacherForm(str, Enum):
    """``kl``: the distribution over a query's documents. ``mse``: each logit. ``bce``: each P(yes) as a soft label."""

    kl = "kl"
    mse = "mse"
    bce = "bce"


@dataclass
class RerankerDistillation(RerankingLoss):
    """The mean divergence of the scores over scored documents (``kl``: over queries with two or more of them).

    A document without a score (NaN) is left out; labels are not used.

    Attributes:
        form: what of the teacher's scores is matched; bce keeps P(yes) meaningful and bounds what one document can
            pull; see the module.
        temperature: divides the student's scores, for kl.
        teacher_temperature: divides the teacher's scores. 1 suits logits; above 1 softens an overconfident teacher.
        require_scores: whether documents without any score are an error. false: they contribute nothing, for mixtures
            in which only some sources have scores.

    Raises:
        ValueError: a setting is not positive.
    """

    form: TeacherForm = TeacherForm.bce
    temperature: float = 1.0
    teacher_temperature: float = 1.0
    require_scores: bool = True

    def __post_init__(self) -> None:
        for key in ("temperature", "teacher_temperature"):
            require_temperature(getattr(self, key), key, of="RerankerDistillation", usual="1 is neutral")

    @property
    def needs_whole_queries(self) -> bool:
        return self.form is TeacherForm.kl

    @property
    def needs_scores(self) -> bool:
        return True

    @property
    def parts(self) -> tuple[str, ...]:
        return ("reranker_distillation",)

    def total_weights(self, targets: Targets) -> Float[Tensor, "1"]:
        """The number of units with teacher scores.

        Raises:
            ValueError: there are no scores and ``require_scores`` is on.
        """
        if targets.scores is None:
            if self.require_scores:
                raise ValueError(
                    "RerankerDistillation matches a teacher's scores, but no document of this step has any. Give "
                    "the rows a 'scores' field (one logit for each document), or set require_scores=false where only "
                    "some sources have scores, or choose another loss."
                )
            return targets.labels.new_zeros(1)
        if self.form is TeacherForm.kl:
            query_idx, num_queries = targets.groups()
            is_unit = ragged.count_items(query_idx[~targets.scores.isnan()], num_queries) > 1
        else:
            is_unit = ~targets.scores.isnan()
        return is_unit.sum(0, keepdim=True).to(targets.labels.dtype)

    def __call__(self, logits: RerankerLogits) -> Float[Tensor, "1"]:
        targets, student = logits.targets, logits.score
        if targets.scores is None:
            return student[:0].sum(0, keepdim=True)
        known = (~targets.scores.isnan()).nonzero()[:, 0]
        teacher = targets.scores[known].detach().to(student.dtype) / self.teacher_temperature
        student = student[known]
        if self.form is TeacherForm.mse:
            losses = (student - teacher).square()
        elif self.form is TeacherForm.bce:
            yes = teacher.sigmoid()
            losses = -(yes * F.logsigmoid(student) + (1 - yes) * F.logsigmoid(-student))
        else:
            query_idx, num_queries = targets.groups()
            query_idx = query_idx[known]
            expected = ragged.segment_log_softmax(teacher, query_idx, num_queries)
            found = ragged.segment_log_softmax(student / self.temperature, query_idx, num_queries)
            losses = expected.exp() * (expected - found)
        return losses.sum(0, keepdim=True)
