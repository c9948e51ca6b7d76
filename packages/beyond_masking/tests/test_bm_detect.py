"""Transfer to Mask R-CNN: what is trained and how fast, weights to start from, tiny runs of the console script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bm_command_line import call, differing, logged, losses, read
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from beyond_masking import TokenPretrainModel
from beyond_masking.detection import detector_groups, mask_rcnn
from vireo.detection import predictions_of
from vireo.engine.checkpoint import save_weights
from vireo.errors import InputError

NAME = "beyond_masking_vit_tiny"
BODY: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
SMALL: dict[str, Any] = {
    "channels": 8,
    "short_side": 32,
    "long_side": 64,
    "box_batch_size_per_image": 16,
    "rpn_post_nms_top_n_train": 40,
    "rpn_post_nms_top_n_test": 20,
}
RUN = [
    *(f"model.encoder_options.{key}={value}" for key, value in BODY.items()),
    *(f"model.{key}={[value] if key == 'short_side' else value}" for key, value in SMALL.items()),
    *("data.train_images=8", "data.val_images=4", "data.image_size=[32,40]", "data.object_size=[10,20]"),
    *("data.batch_size=2", "data.eval_batch_size=3", "epochs=2", "eval_every=2", "run.log_every=1"),
]


def detector(**options: Any) -> Any:
    torch.manual_seed(0)
    return mask_rcnn(NAME, 3, encoder_options=BODY, **{**SMALL, **options})


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TokenPretrainModel]:
    torch.manual_seed(1)
    decoder: dict[str, Any] = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    model = TokenPretrainModel("zoomed_in", 0.75, **BODY, **decoder)
    folder = tmp_path_factory.mktemp("run")
    save_weights(model.state_dict(), folder / "model.safetensors")
    return folder, model


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detect") / "run"
    outcome = call("detect", *RUN, f"output_dir={folder}")
    assert outcome.status == 0, outcome.err
    return folder


def test_run(finished: Path) -> None:
    content = read(finished / "metrics.json")
    assert content["finished"]
    assert content["steps"] == 8
    for kind in ("box", "mask"):
        assert 0 <= content["metrics"][f"{kind}_AP"] <= 1
        assert set(content["metrics"][f"{kind}_per_class"]) == {"ellipse", "rectangle", "triangle"}
    names = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    assert all(set(step) == names for step in losses(finished))


def test_stopped_run_goes_on_to_the_same_weights(finished: Path, tmp_path: Path) -> None:
    """From inside the first epoch: what was drawn for its regions is not drawn again."""
    folder = tmp_path / "run"
    every = [*RUN, "run.checkpoint_every=3", "run.keep_last=9", f"output_dir={folder}"]
    assert call("detect", *every).status == 0
    first, *later = sorted((folder / "checkpoints").glob("step_*.pt"))
    assert int(first.stem.removeprefix("step_")) == 3
    for path in later:
        path.unlink()
    (folder / "metrics.json").unlink()  # says that the run is finished
    outcome = call("detect", *every)
    assert outcome.status == 0, outcome.err
    assert [line["step"] for line in logged(folder)][-5:] == [4, 5, 6, 7, 8]
    assert differing(finished, folder) == []


def test_starts_from_a_pretraining(pretraining: tuple[Path, TokenPretrainModel]) -> None:
    folder, model = pretraining
    body = detector(init=str(folder)).backbone.features.body.state_dict()
    expected = model.encoder.state_dict()
    assert body.keys() == expected.keys()
    assert all(torch.equal(body[key], expected[key]) for key in body)


def test_starts_a_transformer_of_timm_from_its_checkpoint(tmp_path: Path) -> None:
    options = {**SMALL, "encoder_options": BODY}
    first: Any = mask_rcnn("vit_tiny_patch16_224", 3, **options)
    state = first.backbone.features.body.state_dict()
    torch.save({"model": state}, tmp_path / "vit.pth")
    second: Any = mask_rcnn("vit_tiny_patch16_224", 3, init=str(tmp_path / "vit.pth"), **options)
    own = second.backbone.features.body.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own)
    del state["norm.weight"]
    torch.save({"model": state}, tmp_path / "vit.pth")
    with pytest.raises(InputError, match=r"does not fit the encoder.*norm\.weight"):
        mask_rcnn("vit_tiny_patch16_224", 3, init=str(tmp_path / "vit.pth"), **options)


def test_another_encoder_is_refused(pretraining: tuple[Path, TokenPretrainModel], tmp_path: Path) -> None:
    outcome = call("detect", *RUN, "model.encoder_options.depth=3", f"init={pretraining[0]}", f"output_dir={tmp_path}")
    assert outcome.status == 2
    assert "blocks.2.norm1.weight" in outcome.err


def test_rates_fall_towards_the_input() -> None:
    model = detector()
    groups = detector_groups(model, weight_decay=0.1, layer_decay=0.5, lr=1.0)
    assert groups[0]["lr"] == 1.0
    of = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert of.keys() == {id(p) for p in trained.values()}
    assert sum(len(group["params"]) for group in groups) == len(trained)
    body = "backbone.features.body"
    expected = {
        f"{body}.patch_embed.proj.weight": (0.125, 0.1),
        f"{body}.blocks.0.attn.qkv.weight": (0.25, 0.1),
        f"{body}.blocks.1.mlp.fc1.bias": (0.5, 0.0),
        f"{body}.norm.weight": (1.0, 0.0),
        "backbone.features.pyramid.branches.0.1.weight": (1.0, 0.1),
        "roi_heads.box_predictor.cls_score.weight": (1.0, 0.1),
    }
    assert {name: of[id(trained[name])] for name in expected} == expected


def test_every_parameter_learns() -> None:
    """In one step, also of images without any object: a run on several processes needs that."""
    model = detector()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    targets = [{**empty, "masks": torch.zeros(0, 32, 32, dtype=torch.uint8)}]
    sum(model([torch.rand(3, 32, 32)], targets).values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_detections_are_in_pixels_of_the_given_image() -> None:
    model = detector(box_score_thresh=0.0).eval()
    (found,) = predictions_of(model, [torch.rand(3, 50, 70)], [{"image_id": 9}])
    assert found["image_id"] == 9
    assert len(found["boxes"]) == len(found["masks"]) > 0
    assert all(mask["size"] == [50, 70] for mask in found["masks"])
    assert found["labels"].min() >= 0


@pytest.mark.parametrize(("settings", "message"), [("voc", "no masks"), ("cifar", "unknown format 'cifar'")])
def test_data_that_cannot_be_used(tmp_path: Path, settings: str, message: str) -> None:
    outcome = call("detect", *RUN, f"data.format={settings}", f"output_dir={tmp_path}")
    assert message in outcome.mistake()


def test_help() -> None:
    outcome = call("detect", "--help")
    assert outcome.status == 0
    assert "coco_mask_rcnn_base" in outcome.out
    assert "encoder_options" in outcome.out


def test_experiment_builds() -> None:
    """Its keys are those of the default configuration, and the network it describes can be built."""
    with initialize_config_module("beyond_masking.conf", version_base="1.3"):
        config = compose("detect", ["+experiment=coco_mask_rcnn_base", "data.root=/data"])
    model: Any = OmegaConf.to_container(config.model)
    model["short_side"] = tuple(model["short_side"])
    with torch.device("meta"):
        body = mask_rcnn(num_classes=80, **model).backbone.features.body
    assert (len(body.blocks), body.embed_dim) == (12, 768)
