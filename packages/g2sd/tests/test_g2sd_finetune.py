"""``g2sd-finetune``: from scratch and from each start, with and without a teacher, on each kind of data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from g2sd_finetune_runs import DATA, FOLDER, IMAGENET, SIZE, STILL, finetune, make_chain, without_reports

from g2sd.build import load_teacher_classifier
from g2sd.class_distillation import ClassDistillation, TeacherLabels
from g2sd.classifier import Classifier, DistilledVisionTransformer
from g2sd.load import load_run
from g2sd.losses import NKDLoss, hard_distillation_loss, soft_distillation_loss
from g2sd.official import to_official
from g2sd.sizes import encoder_options
from g2sd.teacher import FrozenTeacher
from vireo.data import Mixing, batch_key, build_dataset, labelled_loader
from vireo.errors import InputError
from vireo.testing.runs import differing, logged, losses, read, weights, write_folders

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

MIXED = ["mixing.mixup=0.8", "mixing.cutmix=1", "augmentation.erasing=0.25"]


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    without_reports(monkeypatch)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_chain(tmp_path_factory)


def test_a_run_leaves_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    finetune(tmp_path, "run.ema_decay=0.5", "+paper_metrics.top1_accuracy=82.5")
    names = {"config.yaml", "classes.json", "log.jsonl", "metrics.json", "model.safetensors", "report.html"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    assert len(read(tmp_path / "classes.json")) == 6
    metrics = read(tmp_path / "metrics.json")
    assert metrics["best"]["monitor"] == "top1_error"
    assert metrics["metrics"].keys() == {"top1_error", "top5_error", "top1_accuracy", "top5_accuracy"}
    assert len(logged(tmp_path, "eval")) == 2
    assert len(losses(tmp_path)) == 2 * (64 // 16)
    assert "82.5" in (tmp_path / "report.html").read_text()
    assert "dist_token" not in weights(tmp_path)
    again = Classifier.from_pretrained(tmp_path)
    assert all(torch.equal(value, weights(tmp_path)[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize("kind", ["none", "hard", "soft", "nkd"])
def test_the_loss_of_a_step_is_that_of_the_recipe(runs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """The first step again by hand: same start, same batch, mixed by its key; the teacher sees the mixed images."""
    taught = [f"teacher.weights={runs['teacher']}", f"distillation.kind={kind}", "distillation.weight=0.3"]
    taught += ["distillation.temperature=2", "distillation.alpha=1.5"]
    finetune(tmp_path, "epochs=1", *MIXED, *([] if kind == "none" else taught))
    config = load_run(tmp_path).config
    network = load_run(tmp_path, untrained=True).network.train()
    dataset: Any = build_dataset(config.data, train=True)
    loader: Any = labelled_loader(dataset, config.data, SIZE, config.augmentation)
    images, targets = next(iter(loader))
    mixed, soft = Mixing(6, 0.8, 1.0, label_smoothing=0.1).mix(images, targets["label"], batch_key(0, 0, 0))
    assert not torch.equal(mixed, images)
    with torch.no_grad():
        theirs = load_run(runs["teacher"]).network(mixed)
        answer: Any = network(mixed)
    truth = -(soft * F.log_softmax(answer if kind in ("none", "nkd") else answer[0], 1)).sum(1).mean()
    expected = {
        "none": lambda: truth,
        "hard": lambda: hard_distillation_loss(answer[0], answer[1], soft, theirs, 0.3),
        "soft": lambda: soft_distillation_loss(answer[0], answer[1], soft, theirs, 0.3, 2.0),
        "nkd": lambda: 0.7 * truth + 0.3 * NKDLoss(2.0, 1.5)(answer, theirs, soft),
    }[kind]()
    assert losses(tmp_path)[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert ("dist_token" in weights(tmp_path)) == (kind in ("hard", "soft"))


def test_soft_labels_of_a_teacher() -> None:
    """Equal distributions are no loss; two unequal ones by hand, at a temperature."""
    logits = torch.tensor([[1.0, 2.0, 0.0]])
    assert soft_distillation_loss(logits, logits, logits.softmax(1), logits, 1.0, 3.0).abs() < 1e-6
    p, q = (logits / 2).softmax(1), torch.full((1, 3), 1 / 3)
    found = soft_distillation_loss(logits, torch.zeros(1, 3), q, logits, 1.0, 2.0)
    torch.testing.assert_close(found, 4 * (p * (p / q).log()).sum())


def test_rates_rise_with_the_steps_and_by_depth(runs: dict[str, Path], tmp_path: Path) -> None:
    """Four steps of warm-up; two blocks between the embedding and the heads."""
    finetune(tmp_path, "optim.layer_decay=0.5", f"teacher.weights={runs['teacher']}")
    rates, peak = [line["lr"] for line in logged(tmp_path)], 2e-3 * 16 / 256
    assert rates[:4] == pytest.approx([0, peak / 4, peak / 2, 3 * peak / 4])
    assert rates[4] == pytest.approx(peak)
    assert rates[-1] < rates[-2] < peak
    content = torch.load(sorted((tmp_path / "checkpoints").glob("step_*.pt"))[-1], weights_only=True)
    scales = sorted({group["initial_lr"] / peak for group in content["optimizer"]["param_groups"]}, reverse=True)
    assert scales == pytest.approx([1, 0.5, 0.25, 0.125])


@pytest.mark.parametrize("source", ["distill", "theirs", "classifier"])
def test_the_encoder_starts_with_the_weights_given(runs: dict[str, Path], tmp_path: Path, source: str) -> None:
    start = runs["classifier" if source == "classifier" else "distill"]
    given = start
    if source == "theirs":
        state = weights(start)
        given = tmp_path / "ViT_Sm_GD.pth"
        theirs = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
        extra = {"mask_token": torch.zeros(1, 1, 16), "decoderfeature_pred.fc1.weight": torch.zeros(2, 2)}
        torch.save({"model": {**theirs, **extra}, "epoch": 299}, given)
    outcome = finetune(tmp_path / "run", f"init={given}", f"teacher.weights={runs['teacher']}", *STILL)
    assert "fresh, as expected: distillation token and its head (3), classifier (2)" in outcome.out
    ours, theirs = weights(tmp_path / "run"), weights(start)
    prefix = "" if source == "classifier" else "encoder."
    carried = [key for key in ours if f"{prefix}{key}" in theirs and not key.startswith(("head", "dist_token"))]
    assert {"pos_embed", "cls_token", "norm.weight", "blocks.1.mlp.fc2.bias"} < set(carried)
    for key in carried:
        torch.testing.assert_close(ours[key], theirs[f"{prefix}{key}"], rtol=0, atol=1e-20, msg=key)
    assert float(ours["head.weight"].std()) == pytest.approx(2e-5, rel=0.3)
    assert float(ours["head_dist.weight"].std()) == pytest.approx(0.02, rel=0.3)


def test_positions_are_trained(runs: dict[str, Path], tmp_path: Path) -> None:
    finetune(tmp_path, f"init={runs['distill']}", "optim.layer_decay=1")
    assert not torch.equal(weights(tmp_path)["pos_embed"], weights(runs["distill"])["encoder.pos_embed"])


def test_larger_images_than_in_pre_training(runs: dict[str, Path], tmp_path: Path) -> None:
    outcome = finetune(tmp_path, f"init={runs['distill']}", "model.img_size=48", *STILL)
    assert "positions interpolated from 4x4 to 6x6 patches" in outcome.out
    assert weights(tmp_path)["pos_embed"].shape == (1, 37, 24)


@pytest.mark.parametrize("token", [False, True])
def test_a_teacher_in_the_authors_layout(tmp_path: Path, token: bool) -> None:
    """Sizes, read-out and distillation token are read from the file; the width tells a published size."""
    options: dict[str, Any] = encoder_options("vit_tiny", img_size=SIZE, patch_size=16, num_classes=6)
    network = (DistilledVisionTransformer(**options) if token else Classifier(**options, readout="mean")).eval()
    torch.save({"model": to_official(network)}, tmp_path / "teacher.pth")
    classes = tuple(map(str, range(6)))
    teacher = load_teacher_classifier(str(tmp_path / "teacher.pth"), classes, SIZE, "imagenet", "32").train()
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), network(images), rtol=0, atol=0)


def test_decisions_are_kept(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second training does not ask the teacher at all, and is the same; other views are refused."""
    asked: list[int] = []
    answer = FrozenTeacher.forward

    def counted(self: FrozenTeacher, *inputs: Any, **options: Any) -> Any:
        asked.append(len(inputs[0]))
        return answer(self, *inputs, **options)

    monkeypatch.setattr(FrozenTeacher, "forward", counted)
    cache = tmp_path / "labels"
    arguments = [*MIXED, f"teacher.weights={runs['teacher']}"]
    finetune(tmp_path / "plain", *arguments)
    finetune(tmp_path / "first", *arguments, f"teacher.cache={cache}")
    assert asked == [16] * 16
    finetune(tmp_path / "second", *arguments, f"teacher.cache={cache}", "data.eval_batch_size=20")
    assert len(asked) == 16
    for name in ("first", "second"):
        assert differing(tmp_path / "plain", tmp_path / name) == []
    kept = [np.load(path) for path in sorted(cache.glob("*.npy"))]
    assert [labels.shape for labels in kept] == [(64,), (64,)]
    assert all((labels >= 0).all() and (labels < 6).all() for labels in kept)
    settings = json.loads((cache / "settings.json").read_text())
    assert settings["mixing"]["mixup"] == 0.8
    assert settings["processes"] == 1


def labels_in(folder: Path, **settings: Any) -> TeacherLabels:
    return TeacherLabels(folder, {"seed": 0, "mixing": {"mixup": 0.8}, **settings}, 4)


def test_an_epoch_that_was_not_seen_as_a_whole_is_not_kept(tmp_path: Path) -> None:
    labels = labels_in(tmp_path)
    for images, known in ((2, False), (4, True)):
        assert labels.read(0, torch.tensor([0])) is None
        labels.note(torch.tensor([3, 1]), torch.tensor([5, 2]))
        if images == 4:
            labels.note(torch.tensor([0, 2]), torch.tensor([1, 0]))
        labels.end_epoch(0, 4)
        labels = labels_in(tmp_path)
        found = labels.read(0, torch.tensor([1, 3]))
        assert (found is not None) == known
    assert found is not None
    assert found.tolist() == [2, 5]


def test_labels_of_other_views_are_refused(tmp_path: Path) -> None:
    labels_in(tmp_path)
    with pytest.raises(InputError, match=r"its labels are of another mixing\.mixup, seed"):
        labels_in(tmp_path, seed=1, mixing={"mixup": 0})
    (tmp_path / "epoch_00000_process_0.npy").write_bytes(b"no numbers")
    with pytest.raises(InputError, match=r"epoch_00000_process_0\.npy: cannot be read"):
        labels_in(tmp_path).read(0, torch.tensor([0]))
    np.save(tmp_path / "epoch_00000_process_0.npy", np.zeros(9, np.int32))
    with pytest.raises(InputError, match=r"holds \(9,\) labels for 4 images"):
        labels_in(tmp_path).read(0, torch.tensor([0]))
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(InputError, match=r"settings\.json: cannot be read"):
        labels_in(tmp_path)
    teacher = FrozenTeacher(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="only decisions are kept"):
        ClassDistillation(teacher, "soft", cache=labels_in(tmp_path / "other"))


def test_it_learns(tmp_path: Path) -> None:
    """Colours that say the class: the error falls far below 66.7 percent, chance (to 7 or less with seeds 0 to 2)."""
    easy = ["data.num_classes=3", "data.train_images=240", "data.val_images=90", "data.class_colours=true"]
    finetune(tmp_path, *easy, "optim.lr=0.03", "epochs=24", "eval_every=24", "optim.layer_decay=1")
    assert logged(tmp_path, "eval")[-1]["metrics"]["top1_error"] < 45
    assert "top5_error" not in logged(tmp_path, "eval")[-1]["metrics"]  # of three classes


@pytest.mark.parametrize("data", [FOLDER, IMAGENET])
def test_folders_of_images(data: list[str], tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", {"train": 6, "val": 3}, vary=True)
    finetune(tmp_path / "run", f"data.root={root}", "epochs=1", data=data)
    assert read(tmp_path / "run" / "classes.json") == ["ant", "bee", "cat"]
    assert len(losses(tmp_path / "run")) == 1  # 18 images: a batch of 16 an epoch, the rest is left out


def test_recomputing_blocks_changes_nothing(runs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("false", "true"):
        taught = f"teacher.weights={runs['teacher']}"
        finetune(tmp_path / name, f"grad_checkpointing={name}", taught, "epochs=1", "eval_every=9")
    for one, other in zip(losses(tmp_path / "false"), losses(tmp_path / "true")):
        assert one == pytest.approx(other, rel=1e-6)


def test_few_labels(tmp_path: Path) -> None:
    finetune(tmp_path, "data.train_per_class=4", "data.batch_size=8", "epochs=1", data=DATA)
    assert len(losses(tmp_path)) == 6 * 4 // 8


@pytest.mark.parametrize("script", ["finetune", "eval"])
def test_help_loads_nothing_heavy(script: str) -> None:
    code = (
        f"import sys; sys.argv = ['g2sd-{script}', '--help']\n"
        f"from g2sd.{script} import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert f"g2sd-{script} " in ended.stdout
