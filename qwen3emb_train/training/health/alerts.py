"""Alerts over a run: each problem is reported once when it begins and once when it is over."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from qwen3emb_train.training.health.answer_rules import ANSWER_RULES
from qwen3emb_train.training.health.rules import RULES, AlertRule, Recent

# Rows of these tasks are graded or labelled: a positive need not rank above the batch's other documents.
UNRANKED_TASKS = frozenset({"sts", "classification", "clustering"})
_REMEMBERED_METRICS = ("loss", "grad_norm", "health/auc", "health/relevant_share")
_REMEMBERED = 200
_FIRST = 20


@dataclass(frozen=True)
class Alert:
    """The beginning or the end of a problem.

    Attributes:
        step: steps done.
        name: the rule's.
        source: the data source it is about; empty = the run.
        begins: or is over.
        text: the message.
    """

    step: int
    name: str
    source: str
    begins: bool
    text: str

    def __str__(self) -> str:
        about = f"{self.name} ({self.source})" if self.source else self.name
        return f"step {self.step}: {about}: {self.text}"


@dataclass
class _State:
    """Of a rule, for one source."""

    since: Alert | None = None
    contrary: int = 0  # consecutive judgements that differ from the present state


class Alerts:
    """Judges a run step by step; on the main process only, with metrics of all ranks.

    It keeps a window of past metrics and no files: a resumed run takes it up from what it recorded (``recall``). Where
    nothing is recorded, rules that compare with the run's first steps are skipped.

    Args:
        steps: of the whole run.
        max_grad_norm: what gradients are clipped to; None = never.
        first_step: steps done when the run (re)started.
    """

    def __init__(self, steps: int, max_grad_norm: float | None = None, first_step: int = 0) -> None:
        # A short run settles after a fifth of its steps, a long one after 500.
        self._settled_after = min(max(20, steps // 5), 500)
        self._clipped_at = math.inf if max_grad_norm is None else max_grad_norm
        self._is_resumed = first_step > 0
        self._recent: dict[str, dict[str, list[float]]] = {}
        self._first: dict[str, dict[str, list[float]]] = {}
        self._states: dict[tuple[str, str], _State] = {}
        self.history: list[Alert] = []

    @property
    def active(self) -> list[Alert]:
        """The problems that persist, each as reported when it began."""
        return [state.since for state in self._states.values() if state.since is not None]

    def recall(self, records: Iterable[Mapping[str, object]]) -> None:
        """Judges the recorded steps of a resumed run again: problems that lasted still last, and are not reported anew.

        Args:
            records: the run's metrics.jsonl, which has the steps that were logged.
        """
        for record in records:
            self._is_resumed = False  # the first steps are known
            metrics = {name: value for name, value in record.items() if name != "step"}
            source, task = str(record.get("source", "")), str(record.get("task", "retrieval"))
            self.see(int(str(record["step"])), metrics, source=source, task=task)

    def see(
        self, step: int, metrics: Mapping[str, object], *, source: str = "", task: str = "retrieval"
    ) -> list[Alert]:
        """Judges one step and returns the new alerts.

        Args:
            step: steps done, this one included.
            metrics: whatever is known of the step: loss, grad_norm and lr at best every step, the loss's metrics and
                the health metrics when there are some; "skipped" where the update was left out. Values that
                are no number (histograms) or not finite (an unknown gradient norm) are ignored.
            source, task: the batch's.
        """
        numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
        now = {name: value for name, value in numbers.items() if math.isfinite(value)}
        now["non_finite"] = float("skipped" in metrics or ("loss" in numbers and "loss" not in now))
        alerts = []
        for rule in (*RULES, *ANSWER_RULES):
            if not all(
                name in now or (name[-1] == "/" and any(n.startswith(name) for n in now)) for name in rule.needs
            ):
                continue
            if (rule.ranked and task in UNRANKED_TASKS) or (rule.settled and step < self._settled_after):
                continue
            scope = source if rule.by_source else ""
            alert = self._judge(rule, scope, step, now)
            if alert is not None:
                alerts.append(alert)
        for scope in {source, ""}:
            self._remember(scope, now)
        self.history += alerts
        return alerts

    def _judge(self, rule: AlertRule, scope: str, step: int, now: Mapping[str, float]) -> Alert | None:
        state = self._states.setdefault((rule.name, scope), _State())
        first = {} if self._is_resumed else self._first.get(scope, {})
        text = rule.judge(Recent(now, self._recent.get(scope, {}), first, self._clipped_at))
        is_active = state.since is not None
        state.contrary = state.contrary + 1 if (text is not None) != is_active else 0
        if state.contrary < (rule.ends_after if is_active else rule.begins_after):
            return None
        state.contrary = 0
        if text is not None:
            state.since = Alert(step, rule.name, scope, True, text)
            return state.since
        assert state.since is not None
        over = Alert(step, rule.name, scope, False, f"over (it began at step {state.since.step}).")
        state.since = None
        return over

    def _remember(self, scope: str, now: Mapping[str, float]) -> None:
        for name in _REMEMBERED_METRICS:
            if name in now:
                value = now[name]
                recent = self._recent.setdefault(scope, {}).setdefault(name, [])
                recent.append(value)
                del recent[:-_REMEMBERED]
                first = self._first.setdefault(scope, {}).setdefault(name, [])
                first += [value] if len(first) < _FIRST else []

    def to_json(self) -> dict[str, object]:
        return {
            "active": [asdict(alert) for alert in self.active],
            "alerts": [asdict(alert) for alert in self.history],
        }
