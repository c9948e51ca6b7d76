"""The demo's table and picture; its runs are those of the scripts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from g2sd import MaskedAutoencoder
from g2sd.demo import comparison, recovered_by_student
from g2sd.teacher import TeacherTargets


class Perfect:
    """Predicts what it is asked for.

    Args:
        encoder: of its teacher.
    """

    def __init__(self, encoder: torch.nn.Module) -> None:
        self.encoder = encoder

    def __call__(self, patches: torch.Tensor, mask: Any, targets: TeacherTargets) -> SimpleNamespace:
        return SimpleNamespace(prediction=targets.decoder)


def test_states_of_a_perfect_student_give_the_teachers_picture() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    teacher = MaskedAutoencoder(**sizes, decoder_dim=16, decoder_depth=3, decoder_heads=2).eval()
    images, noise = torch.randn(2, 3, 16, 16), torch.rand(2, 16)
    expected = teacher.reconstruct(images, noise)["prediction"]
    student: Any = Perfect(teacher.encoder)
    for block in (1, 2, 3):
        found = recovered_by_student(teacher, student, images, noise, block)
        assert torch.allclose(found, expected, atol=1e-4)
    seen = teacher.reconstruct(images, noise)["input"] != 0
    assert torch.equal(found[seen], images[seen])


def test_table_has_a_line_for_each_student_and_its_teacher(tmp_path: Path) -> None:
    errors = {"scratch_labels": 60, "scratch_sd": 55, "mae_labels": 40, "mae_sd": 38, "distill_labels": 36}
    for name, error in {**errors, "distill_sd": 30, "task_teacher": 20}.items():
        for seed in (0, 1):
            folder = tmp_path / f"{name}_{seed}"
            folder.mkdir()
            content = {"metrics": {"top1_error": error + 2 * seed}, "wall_s": 3.0}
            (folder / "metrics.json").write_text(json.dumps(content))
    table = comparison(tmp_path, [0, 1])
    assert len(table.rows) == 7
    assert table.rows[5] == ("generic distillation", "labels and teacher", "69.0 ± 1.4", "70.0, 68.0")
    assert table.rows[6][0] == "the teacher"
    assert comparison(tmp_path, [1]).rows[0][2:] == ("38.0", "38.0")
