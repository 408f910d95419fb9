"""Publishing: every item once, in order, in files that the trainer reads."""

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from data_synth.filters.near_duplicates import NearDuplicateConfig
from data_synth.publish import PublishSummary, publish, read_published, read_rejected
from data_synth.runner import run
from data_synth.teachers.teacher import TeacherRefusal
from data_synth.work import Accepted, Outcome, Rejected, Reply, Request, WorkItem
from qwen3emb_train.data.readers import read_examples
from tests.data_synth.scripted import ScriptedTask, ScriptedTeacher


@pytest.fixture
def synthesis(tmp_path: Path) -> Path:
    asyncio.run(run(ScriptedTask(40), ScriptedTeacher(), tmp_path / "work"))
    return tmp_path / "work"


def go(directory: Path, output: Path, num_items: int = 40, **options: Any) -> PublishSummary:
    return publish(directory, ScriptedTask(num_items), output, model="scripted", **options)


def test_rows_train_as_they_are_and_provenance_runs_beside_them(synthesis: Path, tmp_path: Path) -> None:
    summary = go(synthesis, tmp_path / "out", rows_per_file=7)
    examples = list(read_examples(tmp_path / "out" / "examples"))
    published = list(read_published(tmp_path / "out"))
    assert [row for row, _ in published] == examples
    assert len(examples) == summary.num_rows == summary.num_accepted > 20
    numbers = [int(example.positives[0].split()[1]) for example in examples]
    assert numbers == sorted(numbers)
    items = {item.payload["text"]: item for item in ScriptedTask(40).items()}
    for row, origin in published:
        item = items[row.positives[0]]
        assert origin == {
            "calls": 2,
            "item": item.key,
            "group": item.group,
            "teacher": "scripted",
            "prompts": ["scripted/ask@1"],
        }
    sizes = [len(path.read_text().splitlines()) for path in sorted((tmp_path / "out" / "examples").iterdir())]
    assert sizes[:-1] == [7] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= 7


def test_nothing_is_deleted(synthesis: Path, tmp_path: Path) -> None:
    """S4: accepted and rejected items sum to the input; a rejection has its reason, detail and rows."""

    def examine(item: WorkItem, outcome: Outcome) -> Outcome:
        return (
            Rejected("too_dull", "really", outcome.rows)
            if isinstance(outcome, Accepted) and item.payload["text"][-1] == "3"
            else outcome
        )

    summary = go(synthesis, tmp_path / "out", examine=examine)
    rejected = list(read_rejected(tmp_path / "out"))
    assert summary.num_accepted + sum(summary.reasons.values()) == summary.num_items == 40
    assert len(rejected) == sum(summary.reasons.values())
    assert (
        {path.stem for path in (tmp_path / "out" / "rejected").iterdir()}
        == {"dull", "too_dull"}
        == set(summary.reasons)
    )
    dull = next(line for line in rejected if line["reason"] == "too_dull")
    assert (dull["detail"], dull["rows"][0]["positives"][0][-1]) == ("really", "3")
    assert dull["prompts"] == ["scripted/ask@1"]


def test_the_last_look_sees_the_items_in_order_and_changes_no_record(synthesis: Path, tmp_path: Path) -> None:
    order: list[str] = []
    go(
        synthesis,
        tmp_path / "out",
        examine=lambda item, outcome: (order.append(item.payload["text"]), Rejected("none", ""))[1],
    )
    assert order == [f"passage {number}" for number in range(40)]
    assert go(synthesis, tmp_path / "out").num_accepted > 20


def test_missing_items_are_refused_and_the_former_output_stays(synthesis: Path, tmp_path: Path) -> None:
    go(synthesis, tmp_path / "out")
    before = sorted((path, path.read_bytes()) for path in (tmp_path / "out").rglob("*.jsonl"))
    with pytest.raises(ValueError, match=r"5 of 45 items of scripted have not ended with scripted.*partial=true"):
        go(synthesis, tmp_path / "out", num_items=45)
    with pytest.raises(ValueError, match="40 of 40"):
        publish(synthesis, ScriptedTask(40), tmp_path / "out", model="another")
    assert sorted((path, path.read_bytes()) for path in (tmp_path / "out").rglob("*.jsonl")) == before
    summary = go(synthesis, tmp_path / "out", num_items=45, partial=True)
    assert (summary.num_items, summary.num_missing) == (45, 5)


def test_an_item_that_occurs_twice_is_published_once(synthesis: Path, tmp_path: Path) -> None:
    class Repeating(ScriptedTask):
        def items(self) -> Iterator[WorkItem]:
            yield from super().items()
            yield from super().items()

    summary = publish(synthesis, Repeating(40), tmp_path / "out", model="scripted")
    assert summary.num_items == 40
    assert summary.num_rows == go(synthesis, tmp_path / "out").num_rows


def test_failed_items_are_shown_with_the_servers_words(tmp_path: Path) -> None:
    class Refuses(ScriptedTeacher):
        async def complete(self, request: Request) -> Reply:
            if "passage 2 " in request.messages[-1].content:
                raise TeacherRefusal("at most 4096 tokens", 400)
            return await super().complete(request)

    asyncio.run(run(ScriptedTask(5), Refuses(), tmp_path / "work"))
    summary = go(tmp_path / "work", tmp_path / "out", num_items=5)
    assert summary.reasons["failed"] == 1
    (line,) = (json.loads(text) for text in (tmp_path / "out" / "rejected" / "failed.jsonl").read_text().splitlines())
    assert (line["reason"], line["detail"]) == ("refused", "at most 4096 tokens")


@pytest.mark.parametrize("reason", ["../../outside", "a/b", "", "CON.jsonl", "x" * 300, "Ä", "a\nb\x00"])
def test_no_text_becomes_a_file_name(synthesis: Path, tmp_path: Path, reason: str) -> None:
    """G5."""
    go(synthesis, tmp_path / "out", examine=lambda item, outcome: Rejected(reason, "half a pair: \ud800"))
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "work" not in path.parts]
    assert sorted(files) == [tmp_path / "out" / "rejected" / "other.jsonl", tmp_path / "out" / "run.json"]
    assert {line["reason"] for line in read_rejected(tmp_path / "out")} == {reason}


def test_the_ledger_is_never_replaced_by_the_output(synthesis: Path) -> None:
    for output in (synthesis, synthesis.parent, synthesis / "ledger"):
        with pytest.raises(ValueError, match=r"(is|holds) the input ledger"):
            go(synthesis, output)
    assert list((synthesis / "ledger").rglob("*.sqlite"))


class Ranged(ScriptedTask):
    """Some of the items of a ScriptedTask."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(end)
        self.start = start

    def items(self) -> Iterator[WorkItem]:
        yield from islice(super().items(), self.start, None)


def in_parts(directory: Path, output: Path, **options: Any) -> PublishSummary:
    parts = [partial(Ranged, start, start + 8) for start in range(0, 40, 8)]
    near = NearDuplicateConfig(threshold=0.2)  # scripted queries share their frame: some are near
    return go(directory, output, parts=parts, near_duplicates=near, **options)


def contents(output: Path) -> list[tuple[str, bytes]]:
    return sorted((path.relative_to(output).as_posix(), path.read_bytes()) for path in output.rglob("*.jsonl"))


def test_parts_and_processes_change_no_byte(synthesis: Path, tmp_path: Path) -> None:
    whole = go(synthesis, tmp_path / "whole", near_duplicates=NearDuplicateConfig(threshold=0.2))
    assert 0 < whole.reasons["near_duplicate"] < whole.num_items - 10
    for processes in (1, 3):
        assert in_parts(synthesis, tmp_path / "out", processes=processes) == whole
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (synthesis / "publishing").exists()


def test_parts_of_a_killed_start_are_taken_over_only_if_nothing_changed(synthesis: Path, tmp_path: Path) -> None:
    """The third part fails once; what was made before is not made again, unless the settings or the ledger differ."""
    seen: list[str] = []

    def examine(item: WorkItem, outcome: Outcome) -> Outcome:
        seen.append(item.payload["text"])
        if len(seen) == 20:
            raise KeyboardInterrupt
        return outcome

    undisturbed = in_parts(synthesis, tmp_path / "calm")
    for change, num_again in ((False, 24), (True, 40)):
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            in_parts(synthesis, tmp_path / "out", examine=examine, settings={"version": 1})
        assert len(list((synthesis / "publishing").rglob("part-*"))) == 2
        seen[:] = ["start"] * 100
        settings = {"version": 2 if change else 1}
        assert in_parts(synthesis, tmp_path / "out", examine=examine, settings=settings) == undisturbed
        assert len(seen) - 100 == num_again
        assert contents(tmp_path / "out") == contents(tmp_path / "calm")
