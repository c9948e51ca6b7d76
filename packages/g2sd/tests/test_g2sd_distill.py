"""``g2sd-distill`` end to end on tiny data, its loss, and its faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from g2sd_generic_runs import DATA, DISTILL, call, distill, pretrain
from torch import Tensor

from g2sd.generic import GenericStudent, generic_distillation_loss
from g2sd.relation import relation_loss
from g2sd.teacher import TeacherTargets
from vireo.backbones import random_masking
from vireo.errors import InputError
from vireo.testing.runs import logged, losses, read, weights

SIZES: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
SIZES |= {"decoder_dim": 12, "decoder_depth": 1, "decoder_heads": 2, "teacher_dim": 24, "teacher_encoder_dim": 32}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(tmp_path_factory.mktemp("teacher"), "epochs=6", "eval_every=0")


def test_a_student_learns(teacher: Path, tmp_path: Path) -> None:
    outcome = distill(tmp_path / "run", teacher, "epochs=8", "+paper_metrics.loss=0.02", report=True)
    assert "target: block 2 of 3 is inside" in outcome.out + outcome.err
    steps = losses(tmp_path / "run")
    assert len(steps) == 32
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
    metrics = read(tmp_path / "run" / "metrics.json")["metrics"]
    assert metrics["loss"] == metrics["decoder"]
    mean = (metrics["cls_token"] + 4 * metrics["visible"] + 12 * metrics["masked"]) / 17
    assert metrics["decoder"] == pytest.approx(mean, rel=1e-5)
    kept = weights(tmp_path / "run")
    assert kept["decoder_head.fc2.weight"].shape == (24, 24)
    assert not any(key.startswith(("encoder_head.", "decoder.norm.", "decoder.head.", "teacher.")) for key in kept)
    assert (tmp_path / "run" / "report.html").is_file()


def test_what_may_be_predicted(teacher: Path, tmp_path: Path) -> None:
    """The ablations: other blocks, tokens and losses, both ends, and a teacher without its decoder."""
    once = ["epochs=1", "eval_every=1"]
    distill(tmp_path / "masked", teacher, *once, "tokens=masked", "target_block=3", "beta=0.5")
    metrics = read(tmp_path / "masked" / "metrics.json")["metrics"]
    assert metrics["loss"] == metrics["masked"] != metrics["visible"]
    distill(tmp_path / "both", teacher, *once, "encoder_weight=0.5")
    metrics = read(tmp_path / "both" / "metrics.json")["metrics"]
    assert metrics["loss"] == pytest.approx(metrics["decoder"] + 0.5 * metrics["encoder"], rel=1e-5)
    distill(tmp_path / "encoder", teacher, *once, "encoder_weight=1", "decoder_weight=0")
    assert "encoder" in logged(tmp_path / "encoder")[0]["monitors"]
    assert not any(key.startswith("decoder") for key in weights(tmp_path / "encoder"))
    outcome = distill(tmp_path / "random", teacher, *once, "teacher.random_decoder=true")
    assert "the decoder is drawn anew" in outcome.out + outcome.err
    again = distill(tmp_path / "again", teacher, *once, "teacher.random_decoder=true")
    assert losses(tmp_path / "random") == losses(tmp_path / "again"), again.err


def test_a_start_from_another_encoder(teacher: Path, tmp_path: Path) -> None:
    distill(tmp_path / "first", teacher, "epochs=1", "eval_every=0")
    still = ["optim.lr=1e-30", "optim.weight_decay=0", "epochs=1", "eval_every=0"]
    outcome = distill(tmp_path / "second", teacher, f"init={tmp_path / 'first'}", *still)
    assert "left out, as expected: decoder" in outcome.out + outcome.err
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.equal(value, second[key]) for key, value in first.items() if key.startswith("encoder."))
    assert not torch.equal(first["decoder_head.fc1.weight"], second["decoder_head.fc1.weight"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["teacher.weights=null"], "teacher.weights: has no value"),
        (["teacher.weights=absent.pth"], "no such file"),
        (["teacher.name=mae_vit_base_patch16"], "mae_vit_base_patch16 has patch_size 16, embed_dim 768"),
        (["teacher.precision=8"], "unknown precision"),
        (["target_block=4"], "the teacher's decoder has 3 blocks, no block 4"),
        (["model.patch_size=8"], "the teacher has patches of 4 pixels, the student of 8"),
        (["tokens=some"], "unknown choice 'some'"),
        (["decoder_weight=0"], "ask for nothing"),
        (["encoder_weight=-1"], "ask for nothing"),
        (["beta=0"], "beta 0 is not positive"),
        (["mask_ratio=1"], "leaves none, or removes none"),
        (["+model.drop_path_rate=0.1"], "unexpected keyword argument 'drop_path_rate'"),
        (["+norm_pix=true"], "these are the settings of g2sd-pretrain"),
    ],
)
def test_bad_settings(teacher: Path, tmp_path: Path, settings: list[str], message: str) -> None:
    where = [f"output_dir={tmp_path}", f"teacher.weights={teacher}"]
    outcome = call("distill", *DATA, *DISTILL, *where, *settings)
    assert outcome.status == 2
    assert message in outcome.err, outcome.err


def test_an_encoder_is_no_teacher(teacher: Path, tmp_path: Path) -> None:
    """The failure that is reported most: it must not go unseen."""
    kept = {key: value for key, value in weights(teacher).items() if key.startswith("encoder.")}
    torch.save(kept, tmp_path / "encoder.pth")
    arguments = [f"output_dir={tmp_path / 'run'}", f"teacher.weights={tmp_path / 'encoder.pth'}"]
    outcome = call("distill", *DATA, *DISTILL, *arguments)
    assert "holds no decoder, but: encoder alone" in outcome.mistake()
    assert "mae_pretrain_vit_base_full.pth" in outcome.mistake()


# -- the loss ----------------------------------------------------------------------------------------------------------


def batch(noise: Tensor | None = None) -> tuple[Tensor, Any, TeacherTargets]:
    mask = random_masking(torch.rand(2, 16) if noise is None else noise, 0.75)
    return torch.rand(2, 4, 48), mask, TeacherTargets(torch.rand(2, 17, 24), torch.rand(2, 5, 32))


def test_losses_are_means_over_their_tokens() -> None:
    patches, mask, targets = batch()
    every = torch.ones(2, 16, dtype=torch.bool)
    choices: dict[Any, Tensor] = {"masked": mask.mask, "visible": ~mask.mask, "all": every}
    for tokens, judged in choices.items():
        output = GenericStudent(**SIZES, tokens=tokens)(patches, mask, targets)
        first = torch.full((2, 1), tokens == "all")
        expected = generic_distillation_loss(output.prediction, targets.decoder, torch.cat((first, judged), 1))
        torch.testing.assert_close(output.loss, expected)


def test_the_distance_turns_from_a_square_into_a_line() -> None:
    target = torch.zeros(1, 1, 4)
    prediction = torch.tensor([[[0.0, 1.0, -2.0, 5.0]]])
    assert float(generic_distillation_loss(prediction, target)) == pytest.approx((0 + 0.25 + 1 + 4) / 4)
    assert float(generic_distillation_loss(prediction, target, torch.zeros(1, 1, dtype=torch.bool))) == 0
    with pytest.raises(InputError, match="predictions of"):
        generic_distillation_loss(prediction, torch.zeros(1, 1, 3))


def test_targets_that_do_not_fit() -> None:
    patches, mask, targets = batch()
    with pytest.raises(InputError, match="no targets of the encoder"):
        GenericStudent(**SIZES, encoder_weight=1.0)(patches, mask, targets._replace(encoder=None))
    with pytest.raises(InputError, match=r"targets of shape \(2, 17, 20\)"):
        GenericStudent(**SIZES)(patches, mask, targets._replace(decoder=torch.rand(2, 17, 20)))


def test_every_parameter_learns() -> None:
    """No idle module: nothing to be found by a search for unused parameters."""
    for decoder, encoder in ((1.0, 0.0), (1.0, 0.5), (0.0, 1.0)):
        student = GenericStudent(**SIZES, decoder_weight=decoder, encoder_weight=encoder)
        student(*batch()).loss.backward()
        unused = [key for key, value in student.named_parameters() if value.requires_grad and value.grad is None]
        assert unused == []


# -- relations ---------------------------------------------------------------------------------------------------------


def test_relations_compare_networks_of_different_widths() -> None:
    torch.manual_seed(0)
    theirs: Any = [tuple(torch.rand(2, 5, 24) for _ in range(3)) for _ in range(2)]
    own: Any = [tuple(torch.rand(2, 5, 8) for _ in range(3)) for _ in range(2)]
    assert float(relation_loss(own, theirs, 4)) > 1e-4
    assert float(relation_loss(theirs, theirs, 2)) == pytest.approx(0, abs=1e-7)
    faults: list[tuple[tuple[Any, ...], str]] = [
        ((own[:1], theirs), "1 layers of the student, 2 of the teacher"),
        (([], []), "0 layers"),
        ((own, theirs, 3), "8 channels are not divided by 3 heads"),
        (([tuple(part[:, 1:] for part in layer) for layer in own], theirs), "tokens of"),
    ]
    for arguments, message in faults:
        with pytest.raises(InputError, match=message):
            relation_loss(*arguments)
