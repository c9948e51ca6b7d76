"""From configuration to objects: classifiers, what they start from, their teachers and their optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm.models.vision_transformer import Block
from torch import nn
from torch.optim import Optimizer

from vireo.engine import adamw, layer_decay_groups, plain, scaled_rate
from vireo.engine.checkpoint import fit_state_dict
from vireo.engine.finished import require_classes, require_same_sizes
from vireo.errors import InputError

from .class_distillation import WITH_TOKEN, ClassDistillation, TeacherLabels, label_settings, require_kind
from .classifier import Classifier, DistilledVisionTransformer
from .identify import identify
from .official import EncoderReport, load_encoder, read_state
from .sizes import encoder_options
from .teacher import FrozenTeacher

if TYPE_CHECKING:
    from vireo.engine import Run

BLOCKS = (Block,)  # what vireo.engine.compile_blocks compiles
_SIZES = ("patch_size", "embed_dim", "depth", "num_heads")  # positions of another image size are interpolated
_NOT_OURS = ("decoder_", "norm_pix")  # of a model configuration: of masked autoencoders alone


def build_classifier(
    model: Any, num_classes: int, readout: str = "cls", distilled: bool = False, head_std: float | None = None
) -> Classifier:
    """The classifier of a ``model`` configuration, which may be that of a masked autoencoder.

    Args:
        model: ``name`` of a size and arguments that come before the size's own.
        num_classes: C.
        readout: ``cls`` or ``mean``.
        distilled: with a distillation token, which needs the class token as readout.
        head_std: deviation of the first weights of the class token's head; None: 0.02.

    Raises:
        InputError: an unknown name or argument, sizes that do not fit each other, or a negative deviation.
    """
    if distilled and readout != "cls":
        what = f"readout {readout} leaves no place for a distillation token"
        raise InputError(what, "readout", "use readout=cls, or distillation.kind=nkd")
    options = {**encoder_of(model), "num_classes": num_classes, **({} if distilled else {"readout": readout})}
    try:
        network: Classifier = (DistilledVisionTransformer if distilled else Classifier)(**options)
    except TypeError as error:
        what = str(error).partition(") ")[2] or str(error)
        raise InputError(what, f"model {options.get('name', '')}".strip(), "see the arguments of Classifier") from error
    if head_std is not None:
        if head_std < 0:
            raise InputError(f"a deviation of {head_std}", "head_std", "use e.g. 2e-5")
        head: Any = network.get_classifier()
        nn.init.trunc_normal_(head.weight, std=head_std, a=-100 * head_std, b=100 * head_std)
        nn.init.zeros_(head.bias)
    return network


def load_start(network: Classifier, path: str, model: Any) -> EncoderReport:
    """Start a classifier from a run's folder or a checkpoint of any layout; its heads stay as they are.

    Args:
        network: changed in place.
        path: the folder or file.
        model: the configuration of the network, compared with that of the run.

    Raises:
        InputError: no such checkpoint, or one of another network.
    """
    from .load import model_of

    if (theirs := model_of(path)) is not None:
        require_same_sizes(sizes_of(model), sizes_of(theirs), _SIZES, path)
    return load_encoder(network, path)


def has_token(config: Any) -> bool:
    """Whether the classifier of a ``g2sd-finetune`` configuration has a distillation token.

    Raises:
        InputError: an unknown kind of distillation.
    """
    require_kind(config.distillation.kind)
    return config.teacher.weights is not None and config.distillation.kind in WITH_TOKEN


def build_class_distillation(config: Any, classes: tuple[str, ...], images: int, run: Run) -> ClassDistillation | None:
    """The distillation of a ``g2sd-finetune`` configuration; None without a teacher.

    Args:
        config: of the run.
        classes, images: of its training set.
        run: launched.

    Raises:
        InputError: a teacher that does not suit the student, or settings out of range.
    """
    teacher = config.teacher
    if teacher.weights is None:
        if teacher.cache is not None:
            raise InputError("a cache without a teacher", "teacher.cache", "give teacher.weights=..., or leave it out")
        return None
    normalize = config.data.get("normalize", "imagenet")
    network = load_teacher_classifier(teacher.weights, classes, config.model.img_size, normalize, teacher.precision)
    cache = None
    if teacher.cache is not None:
        settings = label_settings(config, images, classes, run.world_size, run.device.type)
        cache = TeacherLabels(teacher.cache, settings, images, run.rank)
    return ClassDistillation(network, **plain(config.distillation), cache=cache)


def load_classifier(path: str, num_classes: int, img_size: int) -> Classifier:
    """A classifier from a file alone, which tells its sizes, read-out and whether it has a distillation token.

    Args:
        path: in the authors' layout or ours, of a published width and depth, which tell the number of heads.
        num_classes: that it must have.
        img_size: positions are interpolated to it.

    Raises:
        InputError: an unreadable file, no classifier, or one of other classes or of sizes that cannot be told.
    """
    state = read_state(path)
    found = identify(state, path)
    if not found.num_classes:
        what = f"holds no classifier, but: {found.kind}"
        raise InputError(what, path, "give a fine-tuned model, such as mae_finetuned_vit_base.pth, or a run's folder")
    if found.num_classes != num_classes:
        what = f"tells {found.num_classes} classes apart, the data have {num_classes}"
        raise InputError(what, path, "give a teacher of the same classes")
    if found.encoder["num_heads"] is None:
        what = "no published size has this width and depth, and no file tells the number of heads"
        raise InputError(what, path, "give the folder of its run")
    readout = "mean" if "fc_norm.weight" in state else "cls"
    options = {**found.encoder, "img_size": img_size}
    network = build_classifier(options, num_classes, readout, distilled="dist_token" in state)
    fit_state_dict(network, network.resized(state), path)
    return network


def load_teacher_classifier(
    weights: str, classes: tuple[str, ...], img_size: int, normalize: str, precision: str = "auto"
) -> FrozenTeacher:
    """The teacher of specific distillation.

    Args:
        weights: the folder of a run of ``g2sd-finetune``, or a classifier's checkpoint in the authors' layout, such as
            MAE's fine-tuned ViT-B.
        classes: of the student's data; a run's must be the same, a file's as many.
        img_size: of the student's images.
        normalize: how they are normalised.
        precision: see :class:`~g2sd.FrozenTeacher`.

    Raises:
        InputError: no such checkpoint, no classifier, or one of other classes, image size or normalisation.
    """
    if not Path(weights).is_dir():
        return FrozenTeacher(load_classifier(weights, len(classes), img_size), precision)
    from .load import load_run

    loaded = load_run(weights)
    if loaded.kind != "classifier":
        what = "is a run that classifies nothing"
        raise InputError(what, weights, "give teacher.weights= the folder of a run of g2sd-finetune")
    require_classes(classes, loaded.classes, f"data of a student of {weights}")
    theirs: dict[str, Any] = {
        "model.img_size": loaded.config.model.img_size,
        "data.normalize": loaded.config.data.get("normalize", "imagenet"),
    }
    own = {"model.img_size": img_size, "data.normalize": normalize}
    if differing := [key for key in own if own[key] != theirs[key]]:
        what = f"the teacher was trained with {', '.join(f'{key}={theirs[key]}' for key in differing)}"
        remedy = f"train the student so too: it has {', '.join(f'{key}={own[key]}' for key in differing)}"
        raise InputError(what, weights, remedy)
    return FrozenTeacher(loaded.network, precision)


def sizes_of(model: Any) -> dict[str, Any]:
    """What a ``model`` configuration says of the encoder's sizes, its own words before its name's.

    Raises:
        InputError: an unknown name.
    """
    merged = {"patch_size": 16, **encoder_of(model)}
    return {key: merged[key] for key in _SIZES}


def encoder_of(model: Any) -> dict[str, Any]:
    """Arguments of the encoder of a ``model`` configuration, which may be that of a masked autoencoder.

    Raises:
        InputError: an unknown name.
    """
    values = dict(model) if isinstance(model, dict) else plain(model)
    given = {key: value for key, value in values.items() if not key.startswith(_NOT_OURS)}
    name = given.pop("name", None)
    return given if name is None else encoder_options(str(name), **given)


def build_adamw(network: nn.Module, optim: Any, batch_size: int) -> Optimizer:
    """AdamW of fine-tuning, with rates that fall from the head to the input (section 4.2).

    Args:
        network: a classifier.
        optim: ``lr`` for 256 images, ``betas``, ``weight_decay`` and ``layer_decay``.
        batch_size: images of an optimizer step, over all processes.

    Raises:
        InputError: a rate that is not positive, or a decay out of range.
    """
    rate = scaled_rate(optim, batch_size)
    return adamw(layer_decay_groups(network, optim.weight_decay, optim.layer_decay, lr=rate), optim, batch_size)
