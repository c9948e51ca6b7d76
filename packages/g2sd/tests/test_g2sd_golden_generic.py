"""Masked autoencoders and generic distillation agree with the reference numbers (sections 3.1 to 3.4 and 4.1)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from g2sd_golden import (
    FORWARD,
    GRADIENT_NORM,
    LOSS,
    TABLE,
    close,
    fill_state_dict,
    filled,
    image,
    keys,
    load,
    load_names,
    sampled,
    tensor,
)
from torch import Tensor, nn

from g2sd.generic import GenericStudent, generic_distillation_loss
from g2sd.layouts import to_authors, to_ours
from g2sd.mae import MaskedAutoencoder, random_mask, visible_patches
from g2sd.official import resample_positions
from g2sd.pretraining import build_adamw
from g2sd.relation import encoder_qkv, relation_loss
from g2sd.sizes import mae_model, model_options
from g2sd.teacher import MAETeacher, TeacherTargets
from vireo.backbones import TokenMask, patchify, pixel_loss, unpatchify
from vireo.backbones.positions import position_table
from vireo.engine import schedule_for

STUDENTS = {
    "gd_s": ("mae_vit_small_patch16", "mae_vit_small_patch16_dec256d4b_student"),
    "gd_ti": ("mae_vit_tiny_patch16", "mae_vit_tiny_patch16_dec128d4b_student"),
}
IDLE = ("decoder_norm.", "decoder_pred.")  # entries of the authors' students that nothing uses


def loaded(network: Any, authors: dict[str, Tensor]) -> Any:
    """A network with all the entries of the authors' state that it has a use for."""
    wanted = {key: value for key, value in authors.items() if not key.startswith(IDLE)}
    network.load_state_dict(to_ours(authors if isinstance(network, MaskedAutoencoder) else wanted), assign=True)
    return network


def named(network: nn.Module) -> dict[str, nn.Parameter]:
    """A network's parameters by the authors' names."""
    names = to_authors(network.state_dict(), "case")
    return dict(zip(names, (network.get_parameter(key) for key in network.state_dict())))


@pytest.fixture(scope="module")
def teacher() -> MaskedAutoencoder:
    with torch.device("meta"):
        model = mae_model("mae_vit_base_patch16")
    model = loaded(model, filled("mae_vit_base_full"))
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def inputs(teacher: MaskedAutoencoder) -> tuple[Tensor, TokenMask]:
    """The pixels of the visible patches, and which they are."""
    mask = random_mask(teacher.encoder, 2, tensor("input.noise", (2, 196)))
    return visible_patches(teacher.encoder, image(2, 224, 224), mask), mask


@pytest.fixture(scope="module")
def targets(teacher: MaskedAutoencoder, inputs: tuple[Tensor, TokenMask]) -> TeacherTargets:
    found: TeacherTargets = MAETeacher.of(teacher)(*inputs, encoder=True)
    return found


def test_the_teacher(teacher: MaskedAutoencoder) -> None:
    case = load("teacher_b")
    latent, prenorm, mask = teacher.forward_encoder(image(2, 224, 224), tensor("input.noise", (2, 196)))
    hidden = teacher.forward_decoder(latent, mask, 4)
    assert torch.equal(mask.mask, case["mask"] > 0)
    assert torch.equal(mask.ids_restore, case["ids_restore"])
    for name, found in {"latent": latent, "prenorm": prenorm, "hidden": hidden}.items():
        sampled(case, name, found)
    close(latent[:, :3, :8], case["latent_head"])
    close(hidden[:, :3, :8], case["hidden_head"])


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student(
    name: str, teacher: MaskedAutoencoder, inputs: tuple[Tensor, TokenMask], targets: TeacherTargets
) -> None:
    """Predictions, every part of the loss, the gradient of every parameter, and the loss of relations."""
    case, (size, stored) = load(name), STUDENTS[name]
    student: GenericStudent = loaded(GenericStudent(**model_options(size), encoder_weight=1.0), filled(stored))
    output = student(*inputs, targets)
    assert output.prediction is not None
    assert student.encoder_head is not None
    sampled(case, "pred", output.prediction)
    close(output.prediction[:, :3, :8], case["pred_head"])
    sampled(case, "target", targets.decoder)
    losses = output.losses
    for part in ("decoder", "encoder", "cls_token", "visible", "masked"):
        close(losses[part], case[f"loss_{part}"], LOSS, 0)
    close(losses["masked"], case["loss_decoder_masked_only"], LOSS, 0)
    judged = torch.cat((torch.zeros(2, 1, dtype=torch.bool), inputs[1].mask), 1)
    assert [int(judged.sum()), output.prediction.shape[2]] == case["pred_masked_shape"].tolist()
    masked_only = generic_distillation_loss(output.prediction, targets.decoder, judged)
    close(masked_only, case["loss_decoder_masked_only"], LOSS, 0)

    generic_distillation_loss(output.prediction, targets.decoder).backward()  # that of the encoder weighs nothing
    norms = dict(zip(load_names(name, "grad_names"), case["grad_norms"].tolist()))
    found = {key: value.grad for key, value in named(student).items()}
    assert norms.keys() - found.keys() == {key for key in norms if key.startswith(IDLE)}
    for key, norm in norms.items():
        gradient = found.get(key)
        if norm < 0:
            assert gradient is None, key
        else:
            assert gradient is not None, key
            close(gradient.norm(), torch.tensor(norm), GRADIENT_NORM, 1e-7)
    for key in ("decoder_embed", "patch_embed"):
        whole = found[f"{key}.weight" if key == "decoder_embed" else f"{key}.proj.weight"]
        assert whole is not None
        sampled(case, f"grad_{key}_weight", whole, GRADIENT_NORM)

    count = sum(value.numel() for value in student.parameters())
    idle = sum(value.numel() for key, value in filled(stored).items() if key.startswith(IDLE))
    tables = student.encoder.pos_embed.numel() + student.decoder.pos_embed.numel()  # type: ignore[union-attr]
    assert count + idle == int(case["n_params_total"])
    assert count + idle - tables == int(case["n_params_trainable"])

    with torch.no_grad():
        (prenorm, own), (_, theirs) = (
            encoder_qkv(network.encoder, network.encoder.embed_patches(inputs[0], inputs[1].ids_keep))
            for network in (student, teacher)
        )
        sampled(case, "prenorm", prenorm)
        sampled(case, "enc_pred", student.encoder_head(student.encoder.norm(prenorm)))
        close(relation_loss(own, theirs), case["relation_Ar1_all_layers"], LOSS, 0)
        close(relation_loss(own[-1:], theirs[-1:], 12), case["relation_Ar12_last_layer"], LOSS, 0)


@pytest.mark.parametrize("name", ["mae_vit_base_full", *(stored for _, stored in STUDENTS.values())])
def test_names_and_shapes(name: str) -> None:
    """Names and shapes are the authors', both ways; of a student, less what they store and do not use."""
    size = next((size for size, stored in STUDENTS.values() if stored == name), None)
    with torch.device("meta"):
        network: nn.Module = mae_model("mae_vit_base_patch16")
        if size is not None:
            network = GenericStudent(**model_options(size), encoder_weight=1)
    theirs = {key: shape for key, (shape, _) in keys(name).items() if size is None or not key.startswith(IDLE)}
    found = to_authors(network.state_dict(), name)
    assert {key: tuple(value.shape) for key, value in found.items()} == theirs
    assert to_ours(found).keys() == network.state_dict().keys()


def test_five_steps() -> None:
    """Losses, rates and parameters of five steps of AdamW, with the groups of its weight decay."""
    case = load("gd_steps_small")
    small: dict[str, Any] = {"img_size": 32, "patch_size": 4}
    teacher = MaskedAutoencoder(
        **small, embed_dim=96, depth=4, num_heads=4, decoder_dim=64, decoder_depth=4, decoder_heads=4
    )
    student = GenericStudent(
        **small, embed_dim=48, depth=3, num_heads=3, decoder_dim=32, decoder_depth=2, decoder_heads=2, teacher_dim=64
    )
    for network in (teacher, student):
        tables = {key: value.clone() for key, value in network.state_dict().items() if key.endswith("pos_embed")}
        state = fill_state_dict(to_authors(network.state_dict(), "case"))
        network.load_state_dict({**to_ours(state), **tables})
    part = MAETeacher.of(teacher.requires_grad_(False), 2)

    optim = SimpleNamespace(lr=2e-3, min_lr=2.5e-6, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=2)
    optimizer = build_adamw(student, optim, 256)
    names = {parameter: key for key, parameter in named(student).items()}
    for group in optimizer.param_groups:
        expected = load_names("gd_steps_small", "decay_names" if group["weight_decay"] else "no_decay_names")
        unused = [key for key in expected if key.startswith((*IDLE, "encoderfeature_pred."))]
        assert {names[parameter] for parameter in group["params"]} == set(expected) - set(unused)
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == case["group_wd"].tolist()
    schedule = schedule_for(optim, 10, 10, 256, "cosine")
    for step in range(5):
        rate = 2e-3 * schedule(5 + 17 * step)  # epoch 0.5 + 1.7 step, of ten steps each
        close(torch.tensor(rate), case["lr"][step], TABLE, 0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        mask = random_mask(student.encoder, 4, tensor(f"input.noise.{step}", (4, 64)))
        patches = visible_patches(student.encoder, image(4, 32, 32, name=f"input.image.{step}"), mask)
        loss = student(patches, mask, part(patches, mask)).loss
        close(loss, case["loss"][step], LOSS, 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    final = to_authors(student.state_dict(), "case")
    stored = {name.removeprefix("final.") for name in case if name.startswith("final.") and "__" not in name}
    assert stored - final.keys() == {"decoder_norm.weight", "encoderfeature_pred.fc1.weight"}  # nothing is learnt there
    bias = "blocks.0.attn.qkv.bias"
    for name in stored & final.keys() - {bias}:
        sampled(case, f"final.{name}", final[name])
    places = torch.arange(144)[:: int(case[f"final.{bias}__k"])]
    learnt = (places < 48) | (places >= 96)  # softmax does not see the keys' bias: their gradient is rounding alone
    close(final[bias][places][learnt], case[f"final.{bias}"][learnt])


def test_tables_patches_and_pixels() -> None:
    case = load("mae_misc")
    for name in {name.partition("__")[0] for name in case if name.startswith("sincos")}:
        if name.endswith("_rows"):
            continue
        dim, side = (int(number) for number in name.split("_")[1:])
        table = position_table("sincos_2d", (side, side), dim, 1)[0]
        sampled(case, name, table, TABLE, TABLE)
        close(table[[0, 1, 2, side + 1], :16], case[f"{name}_rows"], TABLE, TABLE)
    images = tensor("input.patchify", (2, 3, 32, 32))
    patches = patchify(images, 8)
    sampled(case, "patchify", patches, TABLE, TABLE)
    close((unpatchify(patches, 8, (4, 4)) - images).abs().max(), case["unpatchify_err"], 0, TABLE)
    removed, prediction = case["pix_mask"] > 0, tensor("input.pixpred", (2, 16, 192))
    for norm_pix, name in ((True, "norm"), (False, "raw")):
        close(pixel_loss(prediction[removed], patches[removed], norm_pix), case[f"pix_loss_{name}"], LOSS, 0)


def test_positions_are_interpolated() -> None:
    case = load("pos_interp")
    found = resample_positions(tensor("input.pos_embed", (1, 197, 192)), (24, 24))
    sampled(case, "pos", found, FORWARD, TABLE)
    close(found[0, 0, :16], case["pos_cls"], FORWARD, TABLE)
    close(found[0, -1, :16], case["pos_last"], FORWARD, TABLE)


def test_the_schedule_of_generic_distillation() -> None:
    """2.4e-3 for 4,096 images, ten epochs of warm-up, 300 in all."""
    case = load("lr_sched")
    optim = SimpleNamespace(lr=1.5e-4, min_lr=2.5e-6, warmup_epochs=10)
    schedule = schedule_for(optim, 300, 100, 4096, "cosine")
    for epoch, rate in zip(case["epochs_gd"].tolist(), case["lr_gd"]):
        close(torch.tensor(2.4e-3 * schedule(round(100 * epoch)), dtype=torch.float64), rate, TABLE, 1e-12)
