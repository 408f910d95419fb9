"""The process that the chaos test kills. Few imports, so that it starts within milliseconds."""

import asyncio
import sys
from pathlib import Path

from data_synth.runner import run
from data_synth.teachers.openai_teacher import OpenAITeacher
from data_synth.teachers.settings import TeacherConfig
from tests.data_synth.scripted import ScriptedTask


def synthesize(url: str, directory: str, num_items: int, window: int) -> None:
    assert "torch" not in sys.modules
    asyncio.run(_synthesize(url, directory, num_items, window))


async def _synthesize(url: str, directory: str, num_items: int, window: int) -> None:
    config = TeacherConfig(
        model="chaos", base_urls=[url], request_seconds=0.4, backoff_seconds=0.005, max_attempts=12, max_concurrency=64
    )
    async with OpenAITeacher(config) as teacher:
        await run(ScriptedTask(num_items), teacher, Path(directory), window=window)
