"""actors/calls.py and actors/stacks.py: who is waited for, and where its Python is."""

import asyncio
import os
import subprocess
import sys
import time

import pytest

from mel_ray.actors.calls import LISTED, Calls, watch_progress
from mel_ray.actors.incidents import Incidents
from mel_ray.actors.stacks import chosen_threads, python_stack

DUMP = """Process 7: python
Python v3.11.7 (/usr/bin/python3.11)

Thread 7 (idle): "MainThread"
    main_loop (worker.py:1000)
    <module> (default_worker.py:300)

Thread 8 (active+gil): "method"
    backward (zero3.py:160)
    train (policy_pool.py:90)

Thread 9 (idle): "AsyncIO Thread"
    select (selectors.py:468)
"""


def test_the_main_thread_and_those_at_work_are_shown():
    assert chosen_threads(DUMP) == [
        'Thread 7 (idle): "MainThread"', "    main_loop (worker.py:1000)", "    <module> (default_worker.py:300)",
        'Thread 8 (active+gil): "method"', "    backward (zero3.py:160)", "    train (policy_pool.py:90)",
    ]  # fmt: skip
    assert chosen_threads("") == []


def test_a_process_that_is_stopped_still_shows_its_stack():
    code = "import time\ndef stuck():\n    time.sleep(60)\nprint('here', flush=True)\nstuck()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        time.sleep(0.2)
        os.kill(process.pid, 19)
        found = python_stack(process.pid)
    finally:
        process.kill()
        process.wait()
    if not found:
        pytest.skip("this machine does not let py-spy read other processes")
    assert "stuck (<string>:3)" in found


def test_the_watchdog_tells_who_is_waited_for_and_is_quiet_while_somebody_answers():
    async def main():
        heard, incidents, calls = [], Incidents(), Calls()
        incidents.listen(heard.append)
        watching = asyncio.create_task(watch_progress(0.2, incidents, calls))
        for _ in range(8):
            with calls.open("verifier-0", "verdicts", None):
                await asyncio.sleep(0.05)
        assert heard == []
        with calls.open("rollout-0", "rollout of question 7", None):
            others = [calls.open("rollout-1", f"rollout of question {n}", None) for n in range(LISTED)]
            for other in others:
                other.__enter__()
            await asyncio.sleep(0.35)
            assert len(heard) == 1
            await asyncio.sleep(0.25)
            assert len(heard) == 2  # it says so again, after as long
        watching.cancel()
        return heard

    first, *_ = asyncio.run(main())
    assert (first.kind, first.who) == ("waiting", "run")
    assert "No actor has answered for 0 s. Waiting for rollout-0, rollout of question 7 (0 s); rollout-1" in first.text
    assert f"{LISTED - 1} (0 s)" not in first.text
    assert "and 1 more." in first.text
