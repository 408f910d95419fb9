"""R6: a signal to one of two ranks stops both after the same step, saved; the next start ends with the same bits."""

import json
from dataclasses import dataclass
from typing import Any

from qwen3emb_train.configuration.program import EXIT_STOPPED
from tests.training.faults.launcher import Ended, Launcher, Problem, assert_same_course, contents


@dataclass(frozen=True)
class Sent:
    """A signal, and what it must lead to.

    Attributes:
        point, step, rank, do: see ``planting``.
        goes_on_from: the checkpoint that both ranks left.
    """

    point: str
    step: int
    rank: int
    do: str
    goes_on_from: int


SIGNALS = [
    Sent("batch", 0, 1, "SIGTERM", 1),
    Sent("gradients", 1, 0, "SIGUSR1", 2),
    Sent("validating", 2, 1, "SIGTERM", 3),  # the validation is broken off
    Sent("validating", -1, 0, "SIGUSR1", 3),  # done again at the next start, and broken off again
    Sent("saving", 3, 1, "SIGINT", 5),  # Ctrl-C; too late for that step: the next one is saved
    Sent("updated", 6, 1, "SIGTERM", 7),  # in the last step: the last validation is still to be done
]


def test_signalled_anywhere_both_ranks_save_the_same_step_and_the_bits_stay(
    launcher: Launcher, problem: Problem, unbroken: dict[int, Ended]
) -> None:
    command = problem.command("signalled")
    for sent in SIGNALS:
        fault = {"point": sent.point, "step": sent.step, "rank": sent.rank, "do": sent.do}
        ended = launcher.run(command, 2, [fault])
        assert ended.codes == [EXIT_STOPPED] * 2, (sent, ended)
        assert ended.seconds < 15, sent
        assert not ended.had_to_kill
        assert f"stopped by a signal after step {sent.goes_on_from}; saved" in ended.logs[0]
        assert_same_course(ended, unbroken[2])
        assert problem.published("signalled")[-1] == sent.goes_on_from, sent
        assert not (problem.directory / "signalled" / "run.json").exists(), sent
    last = launcher.run(command, 2)
    assert last.codes == [0, 0], last.logs
    expected = problem.checkpoint("unbroken_2", 7)
    assert contents(problem.checkpoint("signalled", 7) / "model") == contents(expected / "model")
    for name in ("pieces_00000.safetensors", "pieces_00000.json"):
        assert contents(problem.checkpoint("signalled", 7) / "state")[name] == contents(expected / "state")[name]
    records = [json.loads((problem.directory / name / "run.json").read_text()) for name in ("signalled", "unbroken_2")]
    assert records[0]["metrics"] == records[1]["metrics"]  # the best validation among them


def test_while_one_rank_loads_a_signal_to_either_ends_both_at_once(launcher: Launcher, problem: Problem) -> None:
    command = problem.command("loading", f"cache_dir={problem.directory / 'cache_loading'}")
    sent = {"point": "opening", "rank": 0, "do": "SIGTERM"}
    loads = {"point": "opening", "rank": 0, "do": "wait"}
    outside: list[list[dict[str, Any]]] = [
        [loads, {"point": "start", "rank": rank, "do": "later SIGUSR1"}] for rank in (0, 1)
    ]
    to_loader, while_loading, to_waiting = (launcher.run(command, 2, faults) for faults in ([sent], *outside))
    for ended, signalled in ((to_loader, 0), (while_loading, 0), (to_waiting, 1)):
        assert ended.codes[signalled] == EXIT_STOPPED, ended
        assert 0 not in ended.codes
        assert ended.seconds < 15
        assert not ended.had_to_kill
        assert "while loading: nothing had begun" in ended.logs[signalled]
    assert not problem.published("loading")
    assert launcher.run([*command, "steps=1"], 2).codes == [0, 0]
