"""Signals reach the run's process as a request, and end its forked helpers as they always did."""

import os
import signal
import subprocess
import sys

SCRIPT = """
import os, signal, sys, time
from vireo.engine.signals import StopRequest

stop = StopRequest()
stop.install()
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.write(writer, b"x")
    time.sleep(60)
    os._exit(0)
os.read(reader, 1)
os.kill(child, signal.SIGTERM)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
assert not stop
os.kill(os.getpid(), signal.SIGUSR1)
assert stop and stop.signal == signal.SIGUSR1
print("asked once", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("not reached")
"""


def test_forked_helper_dies_first_request_is_noted_second_ends() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.stdout == "asked once\n", done.stderr
    assert done.returncode == -signal.SIGTERM
