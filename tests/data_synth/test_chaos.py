"""Kills at random moments and a faulty server: each item ends once, no recorded reply is requested again."""

import asyncio
import multiprocessing
import random
import time
from collections import Counter
from pathlib import Path

from data_synth.publish import publish
from data_synth.runner import run
from tests.data_synth.chaos_child import synthesize
from tests.data_synth.fake_server import Answer, Call, FakeServer, completion, error
from tests.data_synth.ledger_contents import ends, num_calls, published_contents
from tests.data_synth.scripted import ScriptedTask, ScriptedTeacher, echo

NUM_ITEMS, NUM_CALLS, NUM_KILLS, WINDOW = 300, 2, 20, 16
FAULTS = {
    "429": error(429, "slow down", **{"Retry-After": "0.01"}),
    "429 without a time": error(429, "slow down"),
    "503": error(503, "loading"),
    "500": error(500, "engine died"),
    "time-out": Answer(hangs=True),
    "reset": Answer(cut=0),
    "cut off": Answer(completion("never whole").body, cut=150),
    "garbage": Answer(b"<html>Bad gateway</html>"),
    "garbage on the wire": Answer(raw=b"\x00\xff\x00 not http at all\r\n\r\n"),
    "truncated JSON": Answer(completion("never whole").body[:60]),
    "another JSON": Answer(b'{"error": {"message": "out of memory"}}'),
}


def test_twenty_kills_and_every_fault_change_nothing(tmp_path: Path) -> None:
    """S1, S5, S8: one end per item, at most one pass and the windows in requests, the output to the byte."""
    draw = random.Random(0)
    injected: Counter[str] = Counter()

    def script(call: Call) -> Answer:
        dice = random.Random(f"{call.digest} {call.attempt}")
        if call.attempt < 3 and dice.random() < 0.15:
            kind = dice.choice(list(FAULTS))
            injected[kind] += 1
            return FAULTS[kind]
        answer = completion(echo(call.json["messages"][-1]["content"]))
        answer.delay = dice.uniform(0.0, 0.02)
        return answer

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.data_synth.chaos_child"])
    with FakeServer(script, keeps_calls=False) as server:

        def start() -> multiprocessing.process.BaseProcess:
            child = context.Process(target=synthesize, args=(server.url, str(tmp_path / "chaos"), NUM_ITEMS, WINDOW))
            child.start()
            return child

        num_useful = num_recorded = 0
        moments = sorted(draw.randrange(NUM_ITEMS * NUM_CALLS) for _ in range(NUM_KILLS))
        for moment in moments:
            child = start()
            deadline = time.monotonic() + 20
            while server.num_requests < moment and child.is_alive():
                assert time.monotonic() < deadline, "the child does not get on"
                time.sleep(0.002)
            time.sleep(draw.uniform(0.0, 0.08))
            assert child.is_alive(), "ended before it was killed: the test would be vacuous"
            child.kill()
            child.join()
            before, num_recorded = num_recorded, num_calls(tmp_path / "chaos")
            num_useful += num_recorded > before
        last = start()
        last.join(60)
        assert last.exitcode == 0
        num_requests = server.num_requests

    found = ends(tmp_path / "chaos")
    assert len(found) == NUM_ITEMS
    assert set(map(len, found.values())) == {1}
    assert num_calls(tmp_path / "chaos") == NUM_ITEMS * NUM_CALLS, "a recorded reply was bought again"
    one_pass, num_faults = NUM_ITEMS * NUM_CALLS, sum(injected.values())
    assert one_pass < num_requests <= one_pass + NUM_KILLS * WINDOW * NUM_CALLS + num_faults
    assert set(injected) == set(FAULTS)
    assert num_useful > NUM_KILLS / 2, "most kills came before anything was written"

    teacher = ScriptedTeacher(model="chaos")
    asyncio.run(run(ScriptedTask(NUM_ITEMS), teacher, tmp_path / "calm", window=100))
    assert len(teacher.requests) == one_pass
    for name in ("chaos", "calm"):
        publish(tmp_path / name, ScriptedTask(NUM_ITEMS), tmp_path / f"{name} published", model="chaos")
    assert published_contents(tmp_path / "chaos published") == published_contents(tmp_path / "calm published")
