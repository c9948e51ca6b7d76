"""Every setting composes for its script alone, says what it reproduces, and has the recipe's numbers (section 4)."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from g2sd_finetune_runs import call
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from g2sd import conf
from g2sd.build import build_adamw, build_classifier, has_token
from g2sd.kinds import SCRIPTS, require_own_settings
from g2sd.sizes import encoder_options, model_options
from vireo.engine import plain
from vireo.errors import InputError

FOLDER = Path(conf.__path__[0]) / "experiment"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
CONFIGS = {script.removeprefix("g2sd-"): kind for kind, script in SCRIPTS.items()}
ONE_OF_EACH: tuple[str, ...] = ("mae_small_300", "gd_small", "sd_small", "ade20k_sd_small", "coco_sd_small")
ONE_OF_EACH += ("demo_mae", "demo_finetune")

# size, epochs, rate for 256 images, least rate, layer decay, drop path, kind of distillation, number in the report
CLASSIFIERS: dict[str, tuple[Any, ...]] = {
    "sd_small": ("small", 200, 1e-3, 1e-6, 0.75, 0, "hard", 82.5),
    "sd_tiny": ("tiny", 200, 1e-3, 1e-6, 0.75, 0, "hard", None),
    "nkd_small": ("small", 200, 1e-3, 1e-6, 0.75, 0, "nkd", None),
    "nkd_tiny": ("tiny", 200, 1e-3, 1e-6, 0.75, 0, "nkd", None),
    "finetune_small": ("small", 200, 1e-3, 1e-6, 0.75, 0, None, None),
    "finetune_tiny": ("tiny", 200, 1e-3, 1e-6, 0.75, 0, None, None),
    "finetune_mae_small": ("small", 200, 1e-3, 1e-6, 0.75, 0, None, None),
    "finetune_mae_tiny": ("tiny", 200, 1e-3, 1e-6, 0.75, 0, None, None),
    "sd_scratch_small": ("small", 200, 1e-3, 1e-6, 1, 0, "hard", None),
    "sd_scratch_tiny": ("tiny", 200, 1e-3, 1e-6, 1, 0, "hard", None),
    "scratch_small": ("small", 300, 2.5e-4, 1e-5, 1, 0.1, None, 79.8),
    "scratch_tiny": ("tiny", 300, 2.5e-4, 1e-5, 1, 0.1, None, 72.2),
    "finetune_teacher_base": ("base", 100, 5e-4, 1e-6, 0.65, 0.1, None, 83.6),
}


def comment(name: str) -> str:
    """What stands above a setting."""
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#") for line in lines[1:end])


def script_of(name: str) -> str:
    """The script that a setting's own command names."""
    found = re.search(rf"g2sd-(\w+) \+experiment={name}\b", comment(name))
    assert found is not None, f"{name} shows no command of its own"
    return found[1]


@cache
def composed(name: str) -> DictConfig:
    with initialize_config_module("g2sd.conf", version_base="1.3"):
        return compose(script_of(name), [f"+experiment={name}"])


@pytest.mark.parametrize("name", NAMES)
def test_headers(name: str) -> None:
    text = comment(name)
    assert script_of(name) in CONFIGS
    assert re.search(r"^ Hardware: .+; time: .+\.$", text, re.MULTILINE)
    assert re.search(r"^ Expected: [^#]+\.$", text, re.MULTILINE)
    if "from memory" in text:
        assert "unverified" in text
    for accuracy in plain(composed(name).paper_metrics).values():
        share = accuracy if accuracy > 1 else accuracy * 100
        assert f"{share:.1f}" in text


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_of_its_script(name: str) -> None:
    config = composed(name)
    require_own_settings(config, CONFIGS[script_of(name)])  # type: ignore[arg-type]
    folder = str(config.output_dir)
    assert folder == (f"outputs/{name}" if not name.startswith("demo_") else folder)
    options = plain(config.model)
    size = options.pop("name")
    known = model_options(size) if size.startswith("mae_") else encoder_options(size)
    assert set(options) <= {*known, "img_size", "patch_size", "drop_path_rate"}


@pytest.mark.parametrize("script", CONFIGS)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_other_scripts_refuse_it(name: str, script: str) -> None:
    """By an error of Hydra's, for a part that their configuration lacks, or by the keys of another kind."""
    if script == script_of(name):
        return
    try:
        with initialize_config_module("g2sd.conf", version_base="1.3"):
            config = compose(script, [f"+experiment={name}"])
    except HydraException:
        return
    with pytest.raises(InputError, match=f"these are the settings of g2sd-{script_of(name)}"):
        require_own_settings(config, CONFIGS[script])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "script"), [("sd_small", "distill"), ("gd_small", "finetune"), ("coco_sd_small", "segment")]
)
def test_a_refused_setting_leaves_nothing(tmp_path: Path, name: str, script: str) -> None:
    message = call(script, f"+experiment={name}", f"output_dir={tmp_path / 'run'}").mistake()
    own = f"these are the settings of g2sd-{script_of(name)}"
    assert own in message or "made for the configuration of another script" in message
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_every_setting_of_classification_is_tested() -> None:
    found = {name for name in NAMES if script_of(name) == "finetune" and not name.startswith("demo_")}
    assert found == set(CLASSIFIERS)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classification(name: str) -> None:
    """Section 4.2; the teacher's recipe is MAE's, that from scratch DeiT's."""
    size, epochs, rate, least, decay, drop_path, kind, accuracy = CLASSIFIERS[name]
    config = composed(name)
    optim, data, mixing, augmentation = config.optim, config.data, config.mixing, config.augmentation
    assert config.model.name == f"mae_vit_{size}_patch16"
    assert (config.epochs, optim.warmup_epochs, config.model.drop_path_rate) == (epochs, 5, drop_path)
    assert data.batch_size * config.run.accumulate == 1024
    assert (optim.lr, optim.min_lr, optim.layer_decay) == (rate, least, decay)
    assert (list(optim.betas), optim.weight_decay) == ([0.9, 0.999], 0.05)
    assert (mixing.mixup, mixing.cutmix, mixing.label_smoothing) == (0.8, 1.0, 0.1)
    assert (list(augmentation.scale), augmentation.flip, augmentation.erasing) == ([0.08, 1.0], 0.5, 0.25)
    assert augmentation.rand_augment == "rand-m9-mstd0.5-inc1"
    assert (data.resident, data.crop_pct, config.model.img_size) == (False, 0.875, 224)
    assert config.readout == ("mean" if size == "base" else "cls")
    assert config.head_std == (0.02 if "scratch" in name else 2e-5)
    assert plain(config.paper_metrics) == ({} if accuracy is None else {"top1_accuracy": accuracy})
    if kind:
        assert (config.distillation.kind, config.distillation.weight) == (kind, 0.5)
    else:
        assert config.teacher.weights is None
    with torch.device("meta"):
        network = build_classifier(config.model, 1000, config.readout, has_token(config), config.head_std)
    assert hasattr(network, "dist_token") == (kind == "hard")
    groups = build_adamw(network, optim, 1024).param_groups
    assert groups[0]["lr"] == pytest.approx(rate * 4)
    assert min(group["lr"] for group in groups) == pytest.approx(rate * 4 * decay**13)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("demo_")])
def test_what_a_command_gives_is_never_left_out_without_a_word(name: str) -> None:
    """A start or a teacher that a setting is made for has a default, where the run that makes it leaves it.

    (A value of ``???`` would be none: merged over null, null stays.)
    """
    assert "???" not in (FOLDER / f"{name}.yaml").read_text()
    config = composed(name)
    command = re.search(rf"g2sd-\w+ \+experiment={name}\b.*(?:\\\n.*)*", comment(name))
    assert command is not None
    given = [key for key in ("init", "teacher.weights") if f" {key}=" in command[0]]
    assert [key for key in given if OmegaConf.select(config, key) is None] == []
    for value in (config.init, OmegaConf.select(config, "teacher.weights")):
        if value is not None and str(value).startswith("outputs/"):
            assert str(value).removeprefix("outputs/") in NAMES


def test_no_base_hides_a_value() -> None:
    assert [path.name for path in (FOLDER / "base").glob("*.yaml") if "???" in path.read_text()] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("gd_")])
def test_generic_distillation(name: str) -> None:
    """Section 4.1; the name says what an ablation changes."""
    config = composed(name)
    optim, augmentation = config.optim, config.augmentation
    assert config.data.batch_size * config.run.accumulate == 4096
    assert (config.epochs, optim.warmup_epochs, config.mask_ratio, config.beta) == (300, 10, 0.75, 2)
    assert (optim.lr * 16, optim.min_lr, optim.weight_decay) == (pytest.approx(2.4e-3), 2.5e-6, 0.05)
    assert (list(optim.betas), list(augmentation.scale), augmentation.flip) == ([0.9, 0.95], [0.2, 1.0], 0.5)
    assert (augmentation.interpolation, config.data.resident) == ("bicubic", False)
    size = "tiny" if name.startswith("gd_tiny") else "small"
    assert model_options(config.model.name)["embed_dim"] == {"tiny": 192, "small": 384}[size]
    block = re.search(r"block(\d)", name)
    assert config.target_block == (4 if block is None else int(block[1]))
    tokens = next((word for word in ("masked", "visible") if word in name), "all")
    weights = (0, 1) if name.endswith("_encoder") else (1, 0)
    assert (config.tokens, config.decoder_weight, config.encoder_weight) == (tokens, *weights)
    assert config.teacher.random_decoder == ("random_decoder" in name)
    decoder = re.search(r"dec(\d+)d(\d)b", name)
    expected = (int(decoder[1]), int(decoder[2])) if decoder else ({"tiny": 128, "small": 256}[size], 4)
    found = model_options(**plain(config.model))
    assert (found["decoder_dim"], found["decoder_depth"]) == expected


@pytest.mark.parametrize(("name", "epochs"), [("mae_base_1600", 1600), ("mae_small_300", 300), ("mae_tiny_300", 300)])
def test_masked_autoencoders(name: str, epochs: int) -> None:
    """MAE's own recipe, for as long as the generic distillation that it is compared with."""
    config = composed(name)
    assert (config.epochs, config.norm_pix, config.mask_ratio) == (epochs, True, 0.75)
    assert config.optim.lr * config.data.batch_size * config.run.accumulate / 256 == pytest.approx(2.4e-3)
    assert (config.optim.warmup_epochs, list(config.optim.betas)) == (40, [0.9, 0.95])
    assert config.model.name == f"mae_vit_{name.split('_')[1]}_patch16"


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("ade20k_")])
def test_segmentation(name: str) -> None:
    """Section 4.4."""
    config, large = composed(name), "teacher_large" in name
    steps = config.epochs * (20_210 // config.data.batch_size)
    assert config.data.batch_size * config.run.accumulate == 16
    assert steps == pytest.approx(160_000, rel=0.01)
    optim = config.optim
    assert (optim.lr, optim.layer_decay) == ((2e-5, 0.95) if large else (1e-4, 0.65))
    assert (optim.weight_decay, optim.warmup_steps, list(optim.betas)) == (0.05, 1500, [0.9, 0.999])
    assert (config.model.img_size, config.model.drop_path_rate) == (512, 0.1)
    assert list(config.data.crop) == [512, 512]
    assert (config.teacher.weights is not None) == ("_sd_" in name)
    assert (config.divergence.kind, config.divergence.weight, config.divergence.tau) == ("cwd", 3, 1)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("coco_")])
def test_detection(name: str) -> None:
    """Section 4.3; no layer decay where the authors' script had none in force."""
    config = composed(name)
    steps = config.epochs * (118_287 // config.data.batch_size)
    assert config.data.batch_size * config.run.accumulate == 64
    assert steps == pytest.approx(184_375, rel=0.01)
    optim, imitation = config.optim, config.imitation
    assert (optim.lr, optim.warmup_steps, list(optim.betas)) == (1e-4, 250, [0.9, 0.999])
    assert list(optim.milestones) == pytest.approx([163_889 / 184_375, 177_546 / 184_375], abs=1e-5)
    assert optim.weight_decay == (0.1 if "teacher" in name else 0.05)
    assert (config.detector.img_size, list(config.data.scale_jitter)) == (1024, [0.1, 2.0])
    assert (imitation.feature_weight, imitation.logit_weight, imitation.warmup) == (0.001, 0.1, 500)
    assert (config.teacher.weights is not None) == ("_sd_" in name)
    if "_sd_" in name:
        assert (optim.layer_decay, config.model.drop_path_rate) == (1, 0.1)
