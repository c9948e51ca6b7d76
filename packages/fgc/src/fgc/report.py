"""Pictures and the HTML page of a training run."""
from __future__ import annotations
def write_run_report(*_):
    return None
