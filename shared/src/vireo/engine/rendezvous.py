"""Joining the processes of a ``torchrun`` job, also after a restart.

Since torch 2.5 torchrun lets its workers use its own key-value store, which lives through restarts: a restarted worker
can read the address that a dead process left there and fail with "connection refused" (pytorch issue 135712). Here the
process of rank 0 serves a new store in each attempt and only its address goes through torchrun's; an address that is
still the dead process's does not answer, and is read again.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta

import torch.distributed as dist

_KEY = "vireo/store"
_PATIENCE_S = 300.0


def join_torchrun(backend: str) -> None:
    """Initialise ``torch.distributed`` over a store of this attempt; does nothing outside torchrun's shared store."""
    env = os.environ
    if env.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or int(env["WORLD_SIZE"]) == 1 or dist.is_initialized():
        return
    host, rank = env["MASTER_ADDR"], int(env["RANK"])
    agent = dist.TCPStore(host, int(env["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=_PATIENCE_S))
    if rank == 0:
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)
        agent.set(_KEY, str(store.port))
    else:
        store = _connect(host, agent)
    dist.init_process_group(backend, store=store, rank=rank, world_size=int(env["WORLD_SIZE"]))


def leave_group() -> None:
    """Leave the process group together, after the last collective call; does nothing without one.

    A process that ends while it is still a member can be aborted by the group's own threads.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _connect(host: str, agent: dist.TCPStore) -> dist.TCPStore:
    """Connect to rank 0's store, reading its port again while nobody answers there."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        port = int(agent.get(_KEY))
        try:
            store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=2))
        except dist.DistError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
            continue
        store.set_timeout(timedelta(seconds=_PATIENCE_S))
        return store
