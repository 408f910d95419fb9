"""Throughput of the whole client against a local server that answers immediately: the overhead of the client.

    python scripts/bench/synthesis_client.py --items 20000     # half a minute
    python scripts/bench/synthesis_client.py                   # 200,000 items, resident memory from start to end

One process serves, ``--processes`` others synthesise, each its share of the items (one call and one row per item,
prompts of about 3 kB): openai client, retry policy, SQLite ledger with fsync, as in a real run. Then the result is
published. Each client reports its resident memory at each tenth of its items. The last line is a JSON object.
"""

import argparse
import asyncio
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

PASSAGE = "The quick brown fox jumps over the lazy dog, and nobody has ever asked it why. " * 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=32, help="requests in flight per process")
    parser.add_argument("--work", type=Path, help="where the ledger is written; default: a temporary directory")
    parser.add_argument("--role", choices=("server", "client"), help=argparse.SUPPRESS)
    parser.add_argument("--index", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role == "server":
        asyncio.run(serve())
    elif arguments.role == "client":
        asyncio.run(synthesize(arguments))
    else:
        with tempfile.TemporaryDirectory(dir=arguments.work) as work:
            measure(Path(work), arguments)


def measure(work: Path, arguments: argparse.Namespace) -> None:
    load_before = os.getloadavg()[0]
    server = subprocess.Popen([sys.executable, __file__, "--role", "server"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    shared = ["--url", url, "--work", str(work)]
    for name in ("items", "processes", "concurrency"):
        shared += [f"--{name}", str(getattr(arguments, name))]
    try:
        clients = [
            subprocess.Popen(
                [sys.executable, __file__, "--role", "client", "--index", str(index), *shared],
                stdout=subprocess.PIPE,
                text=True,
            )
            for index in range(arguments.processes)
        ]
        reports = [json.loads(client.communicate()[0].splitlines()[-1]) for client in clients]
    finally:
        before = children_cpu_seconds()
        server.terminate()
        server.wait()
    report(work, arguments, reports, load_before, children_cpu_seconds() - before)


def report(
    work: Path, arguments: argparse.Namespace, reports: list[Any], load_before: float, server_cpu: float
) -> None:
    from data_synth.publish import publish

    # From the first client's first item to the last one's end; imports are not counted.
    seconds = max(each["end"] for each in reports) - min(each["start"] for each in reports)
    start = time.perf_counter()
    published = publish(work, InstantTask(arguments.items), work / "published", model="instant")
    publish_seconds = time.perf_counter() - start
    assert published.num_rows == arguments.items, published
    for index, each in enumerate(reports):
        print(f"process {index}: resident MB at each tenth of its share: {each['resident_mb']}")
    # The first tenth fills caches (SQLite's: 2 MB), pools and the window.
    growth = max(each["resident_mb"][-1] - each["resident_mb"][1] for each in reports)
    client_cpu = sum(each["cpu"] for each in reports)
    figures = {
        "benchmark": "synthesis_client",
        "items": arguments.items,
        "processes": arguments.processes,
        "concurrency": arguments.concurrency,
        "cpus": os.cpu_count(),
        "load_before": round(load_before, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "seconds": round(seconds, 1),
        "client_cpu_us_per_item": round(client_cpu / arguments.items * 1e6),
        "server_cpu_us_per_item": round(server_cpu / arguments.items * 1e6),
        "memory_growth_mb": round(growth, 1),
        "memory_growth_bytes_per_item": round(growth * 1e6 / arguments.items * arguments.processes, 1),
        "published_per_second": round(arguments.items / publish_seconds),
        "headline": round(arguments.items / seconds),
    }
    print(json.dumps(figures))


class InstantTask:
    """One call and one row per item, eight items per document."""

    name = "instant"

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def items(self) -> Iterator[Any]:
        from data_synth.work import WorkItem

        for number in range(self.num_items):
            key = hashlib.sha256(b"%d" % number).hexdigest()
            yield WorkItem(key, self.name, {"number": number}, f"document {number // 8}")

    def steps(self, item: Any) -> Any:
        from data_synth.work import Accepted, Message, Request, Sampling
        from qwen3emb_train.data.records import TrainingExample

        number = item.payload["number"]
        messages = (Message("system", "You write search queries."), Message("user", f"{number} {PASSAGE}"))
        reply = yield Request(messages, {"type": "object"}, Sampling(), "bench/query@1")
        query = json.loads(reply.text)["query"]
        return Accepted((TrainingExample(query, (f"{number} {PASSAGE}",), source="bench"),), ({"type": "summary"},))


async def synthesize(arguments: argparse.Namespace) -> None:
    from data_synth.run_summary import RunSummary
    from data_synth.runner import run
    from data_synth.teachers.openai_teacher import OpenAITeacher
    from data_synth.teachers.settings import TeacherConfig

    class Watch:
        """In place of a progress display: records the resident memory at each tenth."""

        def __init__(self) -> None:
            self.memory: list[float] = []

        async def show(self, summary: RunSummary) -> None:
            tenth = arguments.items / arguments.processes / 10
            while True:
                while summary.num_ended >= tenth * len(self.memory):
                    self.memory.append(resident_mb())
                await asyncio.sleep(0.1)

    config = TeacherConfig(
        model="instant",
        base_urls=[arguments.url],
        initial_concurrency=arguments.concurrency,
        max_concurrency=arguments.concurrency,
    )
    watch, start, cpu = Watch(), time.time(), time.process_time()
    async with OpenAITeacher(config) as teacher:
        summary = await run(
            InstantTask(arguments.items),
            teacher,
            arguments.work,
            window=4 * arguments.concurrency,
            process_index=arguments.index,
            num_processes=arguments.processes,
            progress=watch,  # type: ignore[arg-type]
        )
    watch.memory.append(resident_mb())
    cpu = time.process_time() - cpu
    assert summary.num_accepted == summary.num_calls, summary
    print(json.dumps({"start": start, "end": time.time(), "cpu": round(cpu, 1), "resident_mb": watch.memory}))


def children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


class Instant(asyncio.Protocol):
    """Answers every request with the same chat completion; of the request it reads the length only."""

    body = json.dumps(
        {
            "id": "chatcmpl-0",
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": '{"query": "why does the fox jump over the dog"}'},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 700, "completion_tokens": 15, "total_tokens": 715},
        }
    ).encode()
    response = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = self.buffer[:end].lower()
        length = int(head[head.index(b"content-length:") + 15 :].split(b"\r\n", 1)[0])
        if len(self.buffer) >= end + length:
            self.buffer = self.buffer[end + length :]
            self.transport.write(self.response)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    main()
