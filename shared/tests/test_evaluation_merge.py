"""Predictions of several processes become one list without duplicates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from vireo.evaluation import gather_predictions

WORLD_SIZE = 2


def prediction(image_id: int, source: int) -> dict[str, Any]:
    n = image_id % 3
    wide = torch.full((1000, 4), float(source))
    return {
        "image_id": image_id,
        "boxes": wide[:n],  # a view: only its own part should travel
        "scores": torch.linspace(0, 1, n),
        "labels": torch.arange(n),
        "quality": torch.full((n,), 0.5, dtype=torch.bfloat16),
        "masks": [{"size": [2, 2], "counts": b"04"}] * n,
    }


def on_each_process(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD_SIZE)
    # Uneven shards, the padded sampler's duplicate (image 0), ids out of order.
    own = [prediction(i, rank) for i in ([4, 0, 2] if rank == 0 else [5, 0])]
    torch.save(gather_predictions(own), f"{folder}/merged{rank}.pt")
    dist.destroy_process_group()


def test_two_processes(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(WORLD_SIZE)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0] * WORLD_SIZE
    finally:
        for process in processes:
            process.kill()
    merged = [torch.load(tmp_path / f"merged{rank}.pt", weights_only=True) for rank in range(WORLD_SIZE)]
    for received in merged:
        assert [p["image_id"] for p in received] == [0, 2, 4, 5]
        for p in received:
            expected = prediction(p["image_id"], source=1 if p["image_id"] == 5 else 0)
            for key in ("boxes", "scores", "labels"):
                assert torch.equal(p[key], expected[key])
                assert p[key].dtype == expected[key].dtype
            assert torch.equal(p["quality"], expected["quality"].float())
            assert p["masks"] == expected["masks"]
    assert (tmp_path / "merged0.pt").stat().st_size < 30_000


def test_single_process_keeps_the_list() -> None:
    own = [prediction(7, 0), prediction(3, 0)]
    merged = gather_predictions(own)
    assert [p["image_id"] for p in merged] == [7, 3]
    assert merged[0]["boxes"] is own[0]["boxes"]


if __name__ == "__main__":
    on_each_process(int(sys.argv[1]), Path(sys.argv[2]))
