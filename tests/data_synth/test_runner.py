"""Each item ends once, no recorded reply is requested again, and memory is bounded."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_synth.brake import BrakeConfig, UselessRepliesError
from data_synth.ledger import process_of
from data_synth.ledger_database import FAILED
from data_synth.publish import publish
from data_synth.run_summary import RunSummary
from data_synth.runner import run
from data_synth.teachers.teacher import (
    Teacher,
    TeacherError,
    TeacherGone,
    TeacherRefusal,
    TeacherUnavailable,
    request_key,
)
from data_synth.work import Accepted, Message, Outcome, Rejected, Reply, Request, Sampling, Steps, Task, WorkItem
from qwen3emb_train.data.records import TrainingExample
from tests.data_synth.ledger_contents import ends, num_calls, published_contents
from tests.data_synth.scripted import ScriptedTask, ScriptedTeacher


def go(task: Task, teacher: Teacher, directory: Path, **options: Any) -> RunSummary:
    return asyncio.run(run(task, teacher, directory, **options))


def test_every_item_ends_once_and_the_counts_add_up(tmp_path: Path) -> None:
    """S4: accepted, rejected and failed sum to the items."""
    teacher = ScriptedTeacher()
    summary = go(ScriptedTask(100), teacher, tmp_path)
    assert set(map(len, ends(tmp_path).values())) == {1}
    assert len(ends(tmp_path)) == 100 == summary.num_ended
    assert summary.num_accepted == summary.num_rows > 50
    assert summary.num_rejected == summary.reasons["dull"] > 10
    assert (summary.num_calls, summary.prompt_tokens, summary.completion_tokens) == (200, 2000, 400)
    assert json.dumps(summary.to_json())


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    go(ScriptedTask(30), ScriptedTeacher(), tmp_path)
    teacher = ScriptedTeacher()
    summary = go(ScriptedTask(40), teacher, tmp_path)
    assert (summary.num_done_before, summary.num_ended) == (30, 10)
    assert len(teacher.requests) == 20


def test_another_model_is_other_work(tmp_path: Path) -> None:
    """S2: the model is part of an item's identity; the address of its server is not."""
    go(ScriptedTask(5), ScriptedTeacher(model="one"), tmp_path)
    assert go(ScriptedTask(5), ScriptedTeacher(model="two"), tmp_path).num_calls == 10


def test_the_identity_of_a_request_covers_all_that_decides_its_reply() -> None:
    request = Request((Message("user", "a"),), None, Sampling(), "p@1")
    others = [
        Request((Message("system", "a"),), None, Sampling(), "p@1"),
        Request((Message("user", "b"),), None, Sampling(), "p@1"),
        Request((Message("user", "a"), Message("user", "")), None, Sampling(), "p@1"),
        Request((Message("user", "a"),), {}, Sampling(), "p@1"),
        Request((Message("user", "a"),), None, Sampling(temperature=0.1), "p@1"),
        Request((Message("user", "a"),), None, Sampling(top_p=0.1), "p@1"),
        Request((Message("user", "a"),), None, Sampling(temperature=None), "p@1"),
        Request((Message("user", "a"),), None, Sampling(), "p@1", turn="1"),
    ]
    keys = [request_key("m", request), request_key("n", request), *(request_key("m", other) for other in others)]
    assert len(set(keys)) == len(keys)
    for same in (
        Request((Message("user", "a"),), None, Sampling(), "p@1", affinity="document 7"),
        Request((Message("user", "a"),), None, Sampling(), "p@2"),
        Request((Message("user", "a"),), None, Sampling(max_tokens=1, seed=1), "p@1"),
    ):
        assert request_key("m", same) == keys[0]


def test_a_bought_reply_is_not_bought_again_when_its_item_had_not_ended(tmp_path: Path) -> None:
    class Dies(ScriptedTeacher):
        async def complete(self, request: Request) -> Reply:
            if request.messages[-1].content.startswith("1: passage 3 "):
                await asyncio.sleep(0.1)
                raise TeacherGone("the lights are out")
            return await super().complete(request)

    with pytest.raises(TeacherGone, match="lights"):
        go(ScriptedTask(4), Dies(), tmp_path)
    assert len(ends(tmp_path)) == 3
    teacher = ScriptedTeacher()
    summary = go(ScriptedTask(4), teacher, tmp_path)
    assert [request.messages[-1].content[:12] for request in teacher.requests] == ["1: passage 3"]
    assert (summary.num_replayed, summary.num_calls, summary.num_done_before) == (1, 1, 3)


def test_recorded_replies_are_dropped_where_the_steps_ask_something_else(tmp_path: Path) -> None:
    class Reworded(ScriptedTask):
        def request(self, text: str) -> Request:
            return super().request(text.replace("0: ", "Please: "))

    class Dies(ScriptedTeacher):
        async def complete(self, request: Request) -> Reply:
            if request.messages[-1].content.startswith("1: "):
                await asyncio.sleep(0.1)
                raise TeacherGone("")
            return await super().complete(request)

    with pytest.raises(TeacherGone):
        go(ScriptedTask(1), Dies(), tmp_path)
    summary = go(Reworded(1), ScriptedTeacher(), tmp_path)
    assert (summary.num_replayed, summary.num_calls) == (0, 2)


def test_what_was_bought_is_found_by_what_was_asked_whatever_the_item_and_the_steps_before(tmp_path: Path) -> None:
    """A judge or negatives make another item of it, which asks for the ratings or negatives only."""

    class Asks(ScriptedTask):
        def __init__(self, texts: list[str], key: str) -> None:
            super().__init__(1)
            self.texts, self.key = texts, key

        def items(self) -> Iterator[WorkItem]:
            yield WorkItem(self.key, self.name)

        def steps(self, item: WorkItem) -> Steps:
            for text in self.texts:
                yield self.request(text)
            return Rejected("seen")

    go(Asks(["first", "second"], "one"), ScriptedTeacher(), tmp_path)
    teacher = ScriptedTeacher()
    summary = go(Asks(["new", "first", "second", "rate"], "two"), teacher, tmp_path)
    assert [request.messages[-1].content for request in teacher.requests] == ["new", "rate"]
    assert (summary.num_replayed, summary.num_calls) == (2, 2)


def test_more_room_asks_again_for_what_was_cut_and_less_for_nothing(tmp_path: Path) -> None:
    class Limited(ScriptedTask):
        def __init__(self, limit: int) -> None:
            super().__init__(8, num_calls=1)
            self.limit = limit

        def items(self) -> Iterator[WorkItem]:
            for item in super().items():
                yield replace(item, key=f"{item.key} {self.limit}")

        def request(self, text: str) -> Request:
            return replace(super().request(text), sampling=Sampling(max_tokens=self.limit))

    class Cuts(ScriptedTeacher):
        async def complete(self, request: Request) -> Reply:
            reply = await super().complete(request)
            assert request.sampling.max_tokens is not None
            is_cut = "passage 3" in request.messages[-1].content and request.sampling.max_tokens < 200
            return replace(reply, finish_reason="length") if is_cut else reply

    num_asked = []
    for limit in (100, 200, 150, 50, 300):
        teacher = Cuts()
        go(Limited(limit), teacher, tmp_path)
        num_asked.append(len(teacher.requests))
    assert num_asked == [8, 1, 0, 0, 0]


def test_the_same_request_twice_gets_its_two_replies_in_their_order(tmp_path: Path) -> None:
    """A task that asks again for a better reply: after a crash it must see both."""

    class Insists(ScriptedTask):
        def steps(self, item: WorkItem) -> Steps:
            first = yield self.request("again")
            second = yield self.request("again")
            third = yield self.request("last")
            return Rejected("seen", f"{first.text} {second.text} {third.text}")

    class Numbers(ScriptedTeacher):
        async def complete(self, request: Request) -> Reply:
            await super().complete(request)
            if len(self.requests) == 3:
                await asyncio.sleep(0.1)
                raise TeacherGone("")
            return Reply(f"reply {len(self.requests)}")

    with pytest.raises(TeacherGone):
        go(Insists(1), Numbers(), tmp_path)
    seen: list[Outcome] = []
    go(
        Insists(1),
        ScriptedTeacher(lambda request: "new"),
        tmp_path,
        on_outcome=lambda item, outcome: seen.append(outcome) or outcome,
    )
    assert seen == [Rejected("seen", "reply 1 reply 2 new")]


def test_items_are_streamed_and_the_window_bounds_them(tmp_path: Path) -> None:
    """S7: of a task without end, no more is read than is worked on."""
    num_read = 0

    class Endless(ScriptedTask):
        def items(self) -> Iterator[WorkItem]:
            nonlocal num_read
            for item in super().items():
                num_read += 1
                yield item

    teacher = ScriptedTeacher(delay=lambda number: 0.001)
    task = Endless(300)
    furthest = 0

    def watch(item: WorkItem, outcome: Outcome) -> Outcome:
        nonlocal furthest
        furthest = max(furthest, num_read - len(teacher.requests) // 2)
        return outcome

    go(task, teacher, tmp_path, window=8, on_outcome=watch)
    assert teacher.most_in_flight == 8
    assert furthest <= 8 + 64 + 8


def test_items_of_a_document_are_asked_back_to_back_and_by_one_affinity(tmp_path: Path) -> None:
    teacher = ScriptedTeacher()
    go(ScriptedTask(40, num_calls=1), teacher, tmp_path, window=4)
    affinities = [request.affinity for request in teacher.requests]
    assert affinities == [f"document {number // 4}" for number in range(40)]


def test_the_filter_decides_what_is_recorded(tmp_path: Path) -> None:
    def refuse_all(item: WorkItem, outcome: Outcome) -> Outcome:
        return Rejected("too_long", "by far", outcome.rows) if isinstance(outcome, Accepted) else outcome

    summary = go(ScriptedTask(20), ScriptedTeacher(), tmp_path, on_outcome=refuse_all)
    assert summary.num_accepted == 0
    assert summary.reasons["too_long"] + summary.reasons["dull"] == 20


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (TrainingExample("", ("p",)), "invalid_example"),
        (TrainingExample("q", ("p", "\ud800")), "invalid_example"),
        (None, "no_rows"),
    ],
)
def test_rows_that_could_not_be_read_back_are_rejected(
    tmp_path: Path, row: TrainingExample | None, reason: str
) -> None:
    outcome = Accepted(() if row is None else (row,))
    summary = go(ScriptedTask(3), ScriptedTeacher(), tmp_path, on_outcome=lambda item, _: outcome)
    assert summary.reasons == {reason: 3}


def test_an_item_that_occurs_twice_is_done_once(tmp_path: Path) -> None:
    class Repeating(ScriptedTask):
        def items(self) -> Iterator[WorkItem]:
            for item in super().items():
                yield item
                yield item
            yield from super().items()

    teacher = ScriptedTeacher(delay=lambda number: 0.0005)
    summary = go(Repeating(150), teacher, tmp_path, window=25)
    assert (summary.num_ended, len(teacher.requests)) == (150, 300)
    assert summary.num_repeated + summary.num_done_before == 300
    assert min(summary.num_repeated, summary.num_done_before) > 50  # both ways of meeting one again


def refuse(texts: set[str], error: Callable[[], TeacherError]) -> ScriptedTeacher:
    class Refuses(ScriptedTeacher):
        async def complete(self, request: Request) -> Reply:
            reply = await super().complete(request)
            if request.messages[-1].content.split()[2] in texts:
                raise error()
            return reply

    return Refuses()


@pytest.mark.parametrize(
    "error", [lambda: TeacherRefusal("400: too long", 400), lambda: TeacherUnavailable("6 attempts")]
)
def test_an_item_the_teacher_gives_up_on_fails_and_the_others_go_on(
    tmp_path: Path, error: Callable[[], TeacherError]
) -> None:
    """Also the first and the last one, before and after any reply."""
    summary = go(ScriptedTask(10), refuse({"0", "5", "9"}, error), tmp_path, window=1)
    assert (summary.num_failed, summary.num_ended) == (3, 10)
    assert Counter(kind for kinds in ends(tmp_path).values() for kind in kinds)[FAILED] == 3
    teacher = ScriptedTeacher()
    assert go(ScriptedTask(10), teacher, tmp_path).num_done_before == 10
    assert go(ScriptedTask(10), teacher, tmp_path, retry_failed=True).num_ended == 3
    assert set(map(len, ends(tmp_path).values())) == {1}
    assert FAILED not in {kind for kinds in ends(tmp_path).values() for kind in kinds}
    assert num_calls(tmp_path) == 20, "a call of a failed item is kept, and not bought again"


def test_a_server_that_refuses_everything_ends_the_run_and_fails_no_item(tmp_path: Path) -> None:
    def refusal() -> TeacherError:
        return TeacherRefusal("no such field", 400)

    teacher = refuse(set(map(str, range(100))), refusal)
    with pytest.raises(TeacherRefusal, match="no such field"):
        go(ScriptedTask(100), teacher, tmp_path, max_refusals_in_a_row=7, window=2)
    assert 7 <= len(teacher.requests) <= 7 + 2
    assert ends(tmp_path) == {}
    with pytest.raises(TeacherRefusal, match="no such field"):
        go(ScriptedTask(3), refuse({"0", "1", "2"}, refusal), tmp_path)
    assert ends(tmp_path) == {}


def test_a_long_run_of_refused_documents_is_theirs_where_others_are_answered(tmp_path: Path) -> None:
    """Wherever they stand, in one start, without asking the same again, except one control when they are many."""
    refused = set(map(str, range(10, 60)))
    teacher = refuse(refused, lambda: TeacherRefusal("400: context", 400))
    summary = go(ScriptedTask(80, num_calls=1), teacher, tmp_path / "few", window=4)
    assert (summary.num_failed, summary.num_ended, summary.num_calls) == (50, 80, 30)
    teacher = refuse(refused, lambda: TeacherRefusal("400: context", 400))
    summary = go(ScriptedTask(80, num_calls=1), teacher, tmp_path / "many", window=4, max_refusals_in_a_row=20)
    assert (summary.num_failed, summary.num_ended) == (50, 80)
    assert 31 <= summary.num_calls <= 33
    first = refuse({"0", "1", "2"}, lambda: TeacherRefusal("403: flagged", 403))
    assert go(ScriptedTask(10, num_calls=1), first, tmp_path / "first", window=1).num_failed == 3


def test_a_server_that_begins_to_refuse_everything_stops_the_run_and_fails_nobody(tmp_path: Path) -> None:
    """Also in a later start, where the control comes from the ledger; when it is right again, no item was lost."""

    class Breaks(ScriptedTeacher):
        async def complete(self, request: Request) -> Reply:
            if len(self.requests) >= 20:
                raise TeacherRefusal("400: broken", 400)
            return await super().complete(request)

    for _ in range(2):
        broken = Breaks()
        broken.requests = [] if not ends(tmp_path) else [None] * 20  # type: ignore[list-item]
        with pytest.raises(TeacherRefusal, match="broken"):
            go(ScriptedTask(100, num_calls=1), broken, tmp_path, window=4, max_refusals_in_a_row=20)
        kinds = [kind for found in ends(tmp_path).values() for kind in found]
        assert len(kinds) == 20
        assert FAILED not in kinds
    assert go(ScriptedTask(100, num_calls=1), ScriptedTeacher(), tmp_path).num_ended == 80


def test_items_left_over_and_refused_are_failed_by_a_control_from_an_earlier_start(tmp_path: Path) -> None:
    """Else they would end each start for ever."""
    go(ScriptedTask(5), ScriptedTeacher(), tmp_path)
    teacher = refuse({"5", "6"}, lambda: TeacherRefusal("400: context", 400))
    summary = go(ScriptedTask(7), teacher, tmp_path)
    assert (summary.num_failed, summary.num_calls) == (2, 1)
    assert "passage 0" in teacher.requests[-1].messages[-1].content


def useless(num: int) -> ScriptedTask:
    class Useless(ScriptedTask):
        def steps(self, item: WorkItem) -> Steps:
            reply = yield self.request(item.payload["text"])
            return Rejected("reply_cut", f"cut at 9 tokens while it was thinking: {reply.text}")

    return Useless(num)


def test_useless_replies_are_not_bought_beyond_the_trial(tmp_path: Path) -> None:
    teacher = ScriptedTeacher(delay=lambda number: 0.001)
    with pytest.raises(UselessRepliesError, match=r"0 of 10 items.*enable_thinking.*retry_rejected=\[reply_cut\]"):
        go(useless(500), teacher, tmp_path, brake=BrakeConfig(num_items=10))
    assert len(teacher.requests) == 10
    with pytest.raises(UselessRepliesError, match="0 of 10 items"):
        go(useless(500), teacher, tmp_path, brake=BrakeConfig(num_items=10))
    assert len(teacher.requests) == 10, "the same start again buys nothing"
    mended = ScriptedTask(500, num_calls=1)
    summary = go(mended, teacher, tmp_path, brake=BrakeConfig(num_items=10), retry_rejected=["reply_cut"])
    assert summary.num_ended == 500
    assert summary.num_calls == 500


def test_the_brake_lets_a_usual_share_pass_and_stops_a_teacher_that_goes_bad_later(tmp_path: Path) -> None:
    summary = go(ScriptedTask(300, num_calls=1), ScriptedTeacher(), tmp_path / "good", brake=BrakeConfig(num_items=10))
    assert summary.num_ended == 300

    class GoesBad(ScriptedTask):
        def steps(self, item: WorkItem) -> Steps:
            number = int(item.payload["text"].split()[1])
            reply = yield self.request(item.payload["text"])
            return Accepted((TrainingExample(reply.text, ("p",)),)) if number < 100 else Rejected("not_json", "")

    teacher = ScriptedTeacher()
    with pytest.raises(UselessRepliesError, match=r"the last \d+ items"):
        go(GoesBad(900), teacher, tmp_path / "bad", brake=BrakeConfig(num_items=10), window=4)
    assert len(teacher.requests) < 160
    with pytest.raises(ValueError, match="min_acceptance"):
        BrakeConfig(min_acceptance=2.0)


def test_items_that_ask_nothing_do_not_brake(tmp_path: Path) -> None:
    class Empty(ScriptedTask):
        def steps(self, item: WorkItem) -> Steps:
            return Rejected("no_sentences")
            yield

    for _ in range(2):
        assert go(Empty(60), ScriptedTeacher(), tmp_path, brake=BrakeConfig(num_items=10)).num_ended in (60, 0)


def test_an_item_leaves_the_window_only_when_its_end_is_on_the_disk(tmp_path: Path) -> None:
    """So a power cut costs no more than the window."""
    num_begun = 0

    class Watches(ScriptedTeacher):
        async def complete(self, request: Request) -> Reply:
            nonlocal num_begun
            if request.messages[-1].content.startswith("0: "):
                num_begun += 1
                assert len(ends(tmp_path)) >= num_begun - 4
            return await super().complete(request)

    go(ScriptedTask(30), Watches(), tmp_path, window=4)
    assert num_begun == 30


def test_a_wrong_key_ends_the_run_at_once(tmp_path: Path) -> None:
    teacher = refuse({"0"}, lambda: TeacherRefusal("401: who are you", 401, is_fatal=True))
    with pytest.raises(TeacherRefusal, match="who are you") as caught:
        go(ScriptedTask(100), teacher, tmp_path, window=1)
    assert len(teacher.requests) == 1
    assert "while working on item" in caught.value.__notes__[-1]


def test_a_mistake_in_the_task_ends_the_run_and_names_the_item(tmp_path: Path) -> None:
    class Broken(ScriptedTask):
        def steps(self, item: WorkItem) -> Steps:
            reply = yield self.request("x")
            raise KeyError(reply.text)

    with pytest.raises(KeyError) as caught:
        go(Broken(3), ScriptedTeacher(), tmp_path)
    assert "of scripted" in caught.value.__notes__[-1]


def test_processes_share_the_work_without_overlap_and_by_document(tmp_path: Path) -> None:
    items = list(ScriptedTask(200).items())
    shares = [{item.key for item in items if process_of(item, 3) == index} for index in range(3)]
    assert sum(map(len, shares)) == 200
    assert min(map(len, shares)) > 30
    assert all(len({process_of(item, 3) for item in items[start : start + 4]}) == 1 for start in range(0, 200, 4))
    assert process_of(items[0], 1_000_003) == 458_951  # the same on every machine, for ever
    for index in range(3):
        summary = go(ScriptedTask(200), ScriptedTeacher(), tmp_path, process_index=index, num_processes=3)
        assert summary.num_ended == len(shares[index])
    assert go(ScriptedTask(200), ScriptedTeacher(), tmp_path, num_processes=1).num_done_before == 200


def test_a_share_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="process_index=2"):
        go(ScriptedTask(2), ScriptedTeacher(), tmp_path, process_index=2, num_processes=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_under_way_end_and_begins_nothing_new(tmp_path: Path, number: int) -> None:
    def delay(count: int) -> float:
        if count == 20:
            os.kill(os.getpid(), number)
        return 0.02

    teacher = ScriptedTeacher(delay=delay)
    summary = go(ScriptedTask(1000), teacher, tmp_path, window=10)
    assert summary.is_interrupted
    assert 10 <= summary.num_ended == len(ends(tmp_path)) <= 20
    assert summary.num_calls == 2 * summary.num_ended  # all that was begun came to its end
    again = go(ScriptedTask(40), ScriptedTeacher(), tmp_path)
    assert (again.num_done_before, again.num_replayed) == (summary.num_ended, 0)


def test_what_does_not_end_within_the_grace_is_left_for_the_next_start(tmp_path: Path) -> None:
    class HangsOnTheSecond(ScriptedTeacher):
        async def complete(self, request: Request) -> Reply:
            await asyncio.sleep(60.0 if request.messages[-1].content.startswith("1: ") else 0.0)
            return await super().complete(request)

    async def stopped() -> RunSummary:
        asyncio.get_running_loop().call_later(0.3, os.kill, os.getpid(), signal.SIGTERM)
        return await run(ScriptedTask(10), HangsOnTheSecond(), tmp_path, window=3, grace_seconds=0.1)

    summary = asyncio.run(stopped())
    assert summary.is_interrupted
    assert (summary.num_calls, summary.num_ended) == (3, 0)
    assert go(ScriptedTask(10), ScriptedTeacher(), tmp_path).num_replayed == 3


def test_a_run_outside_the_main_thread_works_too(tmp_path: Path) -> None:
    summaries: list[RunSummary] = []
    thread = threading.Thread(target=lambda: summaries.append(go(ScriptedTask(3), ScriptedTeacher(), tmp_path)))
    thread.start()
    thread.join(20)
    assert summaries[0].num_ended == 3


def test_output_is_the_same_whatever_the_order_the_replies_come_in(tmp_path: Path) -> None:
    """S8."""
    outputs = []
    for name, window, processes in (("a", 2, 1), ("b", 50, 1), ("c", 7, 3)):
        draw = random.Random(name)
        for index in range(processes):
            teacher = ScriptedTeacher(delay=lambda number, draw=draw: draw.uniform(0, 0.004))  # type: ignore[misc]
            go(ScriptedTask(60), teacher, tmp_path / name, window=window, process_index=index, num_processes=processes)
        publish(tmp_path / name, ScriptedTask(60), tmp_path / f"{name}_out", model="scripted")
        outputs.append(published_contents(tmp_path / f"{name}_out"))
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0].keys() > {"run.json"}


def test_the_machinery_imports_neither_torch_nor_transformers() -> None:
    modules = "data_synth.runner, data_synth.publish, data_synth.teachers.openai_teacher"
    heavy = "[name for name in ('torch', 'transformers', 'pyarrow', 'rich.console') if name in sys.modules]"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print({heavy})"], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
