"""cli/app.py: signals that come when a command has only little left to do."""

import subprocess
import sys

ENDING = """
import os, signal, time
from mel_ray.cli.app import heed_signals, ignore_stop_signals, leaving_ray

def tell_twice():
    for number in (signal.SIGTERM, signal.SIGUSR1):
        os.kill(os.getpid(), number)

heed_signals()
with leaving_ray() as leave:
    leave()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray does when it shuts down
    time.sleep(0.5)
    tell_twice()
ignore_stop_signals()
tell_twice()
time.sleep(0.5)
print("ended by itself")
"""


def test_nothing_cuts_off_what_comes_last_also_when_ray_resets_the_signals():
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "ended by itself\n"), done.stderr
