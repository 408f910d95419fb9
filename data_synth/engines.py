"""Which way requests take: to servers at once, or in rounds through files or a Ray cluster."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from enum import Enum
from pathlib import Path

from data_synth.run_summary import RunSummary
from data_synth.teachers.batch_files import BatchFiles
from data_synth.teachers.ray_rounds import RayRounds
from data_synth.teachers.rounds import TeacherByFiles
from data_synth.teachers.settings import TeacherConfig


class Engine(str, Enum):
    """``http``: servers. ``ray``: vLLM within Ray Data. ``batch``: files for a vendor's Batch API."""

    http = "http"
    ray = "ray"
    batch = "batch"


async def run_in_rounds(
    config: TeacherConfig,
    directory: Path,
    share: str,
    run: Callable[[TeacherByFiles, bool], Awaitable[RunSummary]],
    ray: RayRounds | None,
) -> RunSummary:
    """Passes over a task's items until all have ended, or the next round is somebody else's.

    Args:
        config: of the teacher.
        directory: of the task's files.
        share: prefix of this process's files.
        run: one pass over the items, the first of this start or a later one: what is tried again is so once.
        ray: answers each round; None if the files are handed in elsewhere.

    Returns:
        The totals of all passes; interrupted while requests wait.
    """
    before: RunSummary | None = None
    while True:
        with closing(await asyncio.to_thread(BatchFiles, directory, share)) as files:
            summary = await run(TeacherByFiles(config, files), before is None)
            if before is not None:
                summary.add(before)
            if summary.is_interrupted or not summary.num_waiting:
                return summary
            files.seal()
            waiting = files.waiting()
            if ray is None:
                _tell(files, waiting)
                summary.is_interrupted = True
                return summary
            await asyncio.to_thread(ray.answer, waiting, files.results)
            before = summary


def _tell(files: BatchFiles, waiting: dict[Path, list[str]]) -> None:
    for path, names in waiting.items():
        print(f"{path}: {len(names):,} requests without a result")
    print(f"hand these files in, put the output and error files into {files.results}, and start the same command again")
