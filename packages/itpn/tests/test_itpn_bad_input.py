"""What is wrong with the settings of fine-tuning is said in one message that names it, before training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from itpn_command_line import DATA, FAST, FINETUNE, FOLDER, IMAGENET, MODEL, call, finetune
from itpn_pretrain_runs import PIXEL, pretrain

from vireo.testing.runs import write_folders

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves take longer than these runs."""
    monkeypatch.setattr("itpn.report.write_run_report", lambda *_, **__: None)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pre-training run."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("itpn.pretraining_report.write_run_report", lambda *_, **__: None)
        pretrain(folder, *PIXEL, "epochs=1")
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.name=itpn_huge"], ["model.name: unknown backbone 'itpn_huge'", "use one of hivit_tiny"]),
        (["+model.depth=3"], ["'depth'", "see the arguments of HiViT"]),
        (["model.img_size=36"], ["36x36 is not divided by units of 8x8", "multiples of 8"]),
        (["model.patch_size=6"], ["units of 6 pixels have no inner grid of 4x4"]),
        (["model.num_heads=5"], ["32 channels do not suit three stages and 5 heads"]),
        (["+model.rel_pos=table"], ["unknown relative positions 'table'", "use null, bias or decomposed"]),
        (["head_std=-1"], ["head_std: a deviation of -1"]),
        (["optim.lr=0"], ["optim.lr: a rate of 0 trains nothing"]),
        (["optim.layer_decay=2"], ["decay", "(0, 1]"]),
        (["optim.layer_scheme=swin"], ["swin", "itpn"]),
        (["optim.schedule=steps"], ["unknown schedule 'steps'", "warmup_cosine"]),
        (["optim.lrr=1"], ["nearest key is 'optim.lr'"]),
        (["mixing.label_smoothing=2"], ["label_smoothing 2 is not between 0 and 1"]),
        (["augmentation.erasing=2"], ["p 2 is no probability"]),
        (["augmentation.scale=[0,1]"], ["0 < scale <= 1"]),
        (["data.resident=false", "augmentation.rand_augment=many"], ["'many' is no policy of timm's RandAugment"]),
        (["data.normalize=clip"], ["data.normalize: unknown mean and deviation 'clip'", "use one of imagenet, half"]),
        (["data.resident=false", "+data.crop_pct=1.5"], ["crop_pct 1.5 is not in (0, 1]"]),
        (["data.batch_size=65"], ["data.batch_size: 64 images do not fill a batch of 65", "use at most 64"]),
        (["data.train_per_class=0"], ["0 images per class cannot be had"]),
        (["init=/nowhere.pth"], ["/nowhere.pth: no such file"]),
        (["model.embed_dim=48", "init=RUN"], ["the run's model has embed_dim 32; this one has embed_dim 48"]),
        (
            ["model.depths=[1,1,3]", "model.patch_size=16", "init=RUN"],
            ["has patch_size 8, depths [1, 1, 2]; this one has patch_size 16, depths [1, 1, 3]", "model.patch_size=8"],
        ),
        (["+model.init_values=0.1", "init=RUN"], ["has no layer scales and the model has"]),
        (["data=folder"], ["data.root: has no value", "give the folder of the data with data.root=DIR"]),
        (["data=folder", "data.root=/nowhere"], ["/nowhere"]),
    ],
)
def test_mistakes(pretrained: Path, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    given = [text.replace("RUN", str(pretrained)) for text in arguments]
    data = [] if "data=folder" in given else DATA
    outcome = call("finetune", *data, *FINETUNE, f"output_dir={tmp_path}/run", *given)
    message = outcome.mistake()
    for expected in words:
        assert expected in message
    assert "step 1" not in outcome.err  # it is known before training


def test_a_fast_network_does_not_start_from_another_family(pretrained: Path, tmp_path: Path) -> None:
    """Their blocks have other parameters; the configurations tell, and of a bare file the tensors."""
    arguments = [*DATA, *FAST, *(text for text in FINETUNE if text not in MODEL), f"output_dir={tmp_path}/run"]
    message = call("finetune", *arguments, f"init={pretrained}").mistake()
    assert "the run's model has name itpn; this one has name fast_itpn" in message
    file = pretrained / "model.safetensors"
    assert str(file) in call("finetune", *arguments, f"init={file}").mistake()


def test_a_checkpoint_that_would_execute_code(tmp_path: Path) -> None:
    torch.save({"model": {"head.weight": torch.zeros(2)}, "args": Path("anything")}, tmp_path / "bad.pth")
    message = call("finetune", *DATA, *FINETUNE, f"output_dir={tmp_path}/run", f"init={tmp_path}/bad.pth").mistake()
    assert "bad.pth" in message


def test_splits_with_other_classes(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", {"train": 6, "val": 3})
    (root / "val" / "cat").rename(root / "val" / "dog")
    message = call("finetune", *FOLDER, *FINETUNE, f"data.root={root}", f"output_dir={tmp_path}/run").mistake()
    assert "different classes (2 in one only: cat, dog)" in message


def test_unreadable_images_are_listed(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", {"train": 6, "val": 3})
    (root / "train" / "ant" / "000.jpg").write_bytes(b"")
    arguments = [*IMAGENET, *FINETUNE, f"data.root={root}", f"output_dir={tmp_path}/run"]
    assert "train/ant/000.jpg" in call("finetune", *arguments).mistake()
    finetune(tmp_path / "run", f"data.root={root}", "data.on_error=skip", "epochs=1", data=IMAGENET)
    assert "train/ant/000.jpg" in (tmp_path / "run" / "skipped.txt").read_text()
