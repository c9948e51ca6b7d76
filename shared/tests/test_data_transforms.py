"""Geometry keeps the target true to the image; device transforms keep batches true to their images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from vireo.data.random import counter_key, seeded
from vireo.data.transforms import (
    Compose,
    NormalizePad,
    PhotometricDistort,
    RandomHorizontalFlip,
    Resize,
    ResizeShortSide,
    TorchvisionTransform,
    detection_transforms,
    horizontal_flip,
)

sides = st.integers(8, 90)


@st.composite
def samples(draw: st.DrawFn) -> tuple[Tensor, dict]:
    """A white rectangle per object on its own mask, its box, and an image that shows the first one."""
    h, w = draw(sides), draw(sides)
    boxes, masks = [], torch.zeros(draw(st.integers(0, 3)), h, w, dtype=torch.uint8)
    for mask in masks:
        x1, y1 = draw(st.integers(0, w - 2)), draw(st.integers(0, h - 2))
        x2, y2 = draw(st.integers(x1 + 1, w)), draw(st.integers(y1 + 1, h))
        boxes.append((x1, y1, x2, y2))
        mask[y1:y2, x1:x2] = 1
    image = torch.zeros(3, h, w, dtype=torch.uint8)
    if boxes:
        image[:] = masks[0] * 255
    box_tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return image, {
        "boxes": box_tensor,
        "true_boxes": box_tensor + 0.25,
        "masks": masks,
        "area": masks.sum((1, 2)).float(),
        "labels": torch.zeros(len(boxes), dtype=torch.int64),
        "orig_size": (h, w),
        "size": (h, w),
        "scale": 1.0,
        "image_id": 7,
    }


def assert_same(first: tuple[Tensor, dict], second: tuple[Tensor, dict]) -> None:
    assert torch.equal(first[0], second[0])
    assert first[1].keys() == second[1].keys()
    for field, value in first[1].items():
        assert torch.equal(value, second[1][field]) if isinstance(value, Tensor) else value == second[1][field], field


@given(samples())
def test_two_flips_are_none(sample: tuple[Tensor, dict]) -> None:
    assert_same(horizontal_flip(*horizontal_flip(*sample)), sample)


@given(samples())
def test_a_flip_moves_boxes_with_masks_and_image(sample: tuple[Tensor, dict]) -> None:
    image, target = horizontal_flip(*sample)
    for number, ((x1, y1, x2, y2), mask) in enumerate(zip(target["boxes"].int().tolist(), target["masks"])):
        inside = torch.zeros_like(mask)
        inside[y1:y2, x1:x2] = 1
        assert torch.equal(mask, inside)
        if number == 0:
            assert torch.equal(image[0], inside * 255)
    assert torch.equal(target["true_boxes"], target["boxes"] + torch.tensor([-0.25, 0.25, -0.25, 0.25]))


@given(samples(), st.integers(16, 64), st.integers(32, 200))
def test_short_side_and_limit(sample: tuple[Tensor, dict], short: int, max_size: int) -> None:
    image, target = ResizeShortSide(short, max_size)(*sample)
    (h, w), (new_h, new_w) = sample[1]["size"], target["size"]
    assert image.shape == (3, new_h, new_w)
    assert image.dtype == torch.uint8
    assert min(new_h, new_w) == short or max(new_h, new_w) == max_size
    assert max(new_h, new_w) <= max_size
    assert target["orig_size"] == (h, w)
    assert abs(new_h - h * target["scale"]) <= 0.5 + 1e-6
    assert abs(new_w - w * target["scale"]) <= 0.5 + 1e-6


@given(samples(), sides, sides)
def test_resize_scales_boxes_area_and_masks(sample: tuple[Tensor, dict], new_h: int, new_w: int) -> None:
    (h, w), before = sample[1]["size"], sample[1]
    image, target = Resize((new_h, new_w))(*sample)
    assert image.shape[1:] == target["size"] == (new_h, new_w)
    boxes = target["boxes"]
    factors = torch.tensor([new_w / w, new_h / h, new_w / w, new_h / h])
    torch.testing.assert_close(boxes, before["boxes"] * factors)
    torch.testing.assert_close(target["true_boxes"], before["true_boxes"] * factors)
    torch.testing.assert_close(target["area"], before["area"] * (new_w / w) * (new_h / h))
    assert (boxes >= 0).all()
    assert (boxes[:, 0::2] <= new_w + 1e-3).all()
    assert (boxes[:, 1::2] <= new_h + 1e-3).all()
    assert target["masks"].shape == (len(boxes), new_h, new_w)
    for box, mask in zip(boxes, target["masks"]):  # a mask pixel is set if its centre lies in the box
        x, y = torch.arange(new_w) + 0.5, torch.arange(new_h) + 0.5
        inside = ((y > box[1]) & (y < box[3]))[:, None] & ((x > box[0]) & (x < box[2]))
        edge = torch.stack([(y - box[1]).abs(), (y - box[3]).abs()]).amin(0)[:, None] < 1e-3
        edge = edge | (torch.stack([(x - box[0]).abs(), (x - box[2]).abs()]).amin(0) < 1e-3)
        assert torch.equal(mask.bool() | edge, inside | edge)


@given(samples())
def test_transforms_leave_their_input_alone(sample: tuple[Tensor, dict]) -> None:
    copy = sample[0].clone(), {k: v.clone() if isinstance(v, Tensor) else v for k, v in sample[1].items()}
    detection_transforms(True, 24, 60, flip=1.0)(*sample)
    assert_same(sample, copy)


@given(samples())
def test_resize_to_the_same_size_changes_nothing(sample: tuple[Tensor, dict]) -> None:
    assert_same(Resize(sample[1]["size"])(*sample), sample)


def test_resize_looks_like_pillow() -> None:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((53, 40), Image.Resampling.BILINEAR)).astype(int)
    image, _ = ResizeShortSide(40, 100)(torch.from_numpy(pixels).permute(2, 0, 1), {})
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_random_flip_follows_the_counter_and_its_probability() -> None:
    image = torch.arange(12, dtype=torch.uint8).view(3, 2, 2)

    def flipped(index: int, p: float = 0.25) -> bool:
        with seeded(counter_key(0, 0, index)):
            return not torch.equal(RandomHorizontalFlip(p)(image, {})[0], image)

    drawn = [flipped(index) for index in range(2000)]
    assert drawn[:50] == [flipped(index) for index in range(50)]
    assert abs(sum(drawn) / 2000 - 0.25) < 0.03
    assert not any(flipped(index, 0.0) for index in range(50))


def test_evaluation_transforms_do_not_flip() -> None:
    image = torch.arange(3 * 8 * 12, dtype=torch.uint8).view(3, 8, 12)
    assert torch.equal(detection_transforms(False, 8, 100, flip=1.0)(image, {})[0], image)
    assert torch.equal(detection_transforms(True, 8, 100, flip=1.0)(image, {})[0], image.flip(-1))


@given(samples())
def test_torchvision_transforms_move_boxes_and_masks(sample: tuple[Tensor, dict]) -> None:
    assert_same(TorchvisionTransform(v2.RandomHorizontalFlip(1.0))(*sample), horizontal_flip(*sample))
    image, target = TorchvisionTransform(v2.Resize((33, 44)))(*sample)
    ours, expected = Resize((33, 44))(*sample)
    assert torch.equal(image, ours)
    assert type(image) is type(target["boxes"]) is Tensor
    torch.testing.assert_close(target["boxes"], expected["boxes"])
    assert (target["size"], target["scale"]) == (expected["size"], pytest.approx(expected["scale"]))


def images_and_targets(sizes: list[tuple[int, int]]) -> tuple[list[Tensor], list[dict]]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=generator) for h, w in sizes]
    return images, [{"key": torch.tensor(counter_key(0, 0, i))} for i in range(len(sizes))]


@pytest.mark.parametrize("sizes", [[(20, 33), (31, 12), (32, 32)], [(32, 64), (32, 64)]])
def test_normalize_pad(sizes: list[tuple[int, int]]) -> None:
    images, targets = images_and_targets(sizes)
    batch, same = NormalizePad()(images, targets)
    assert same is targets
    assert batch.shape == (len(images), 3, 32, 64)
    assert batch.dtype == torch.float32
    for padded, image in zip(batch, images):
        h, w = image.shape[1:]
        expected = v2.functional.normalize(image.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        torch.testing.assert_close(padded[:, :h, :w], expected, atol=1e-5, rtol=1e-5)
        assert not padded[:, h:].any()
        assert not padded[:, :, w:].any()


def test_photometric_distortion_is_a_function_of_the_key() -> None:
    images, targets = images_and_targets([(16, 20)] * 40)
    distorted, _ = PhotometricDistort()(images, targets)
    again, _ = PhotometricDistort()(images[3:4], targets[3:4])
    torch.testing.assert_close(again[0], distorted[3])
    assert all(0 <= float(image.min()) <= float(image.max()) <= 255 for image in distorted)
    unchanged = [torch.allclose(image, old.float(), atol=0.05) for image, old in zip(distorted, images)]
    assert 0 < sum(unchanged) < 15  # each of four changes with probability 1/2: 1 in 16 stays as it is
    for image, old in zip(PhotometricDistort(p=0.0)(images, targets)[0], images):
        torch.testing.assert_close(image, old.float(), atol=0.05, rtol=0)


def test_photometric_distortion_of_grey_keeps_it_grey_but_for_brightness() -> None:
    grey = [torch.full((3, 4, 4), 128, dtype=torch.uint8)] * 20
    targets = images_and_targets([(4, 4)] * 20)[1]
    shifts = torch.stack(PhotometricDistort(brightness=32, p=1.0)(grey, targets)[0]) - 128
    assert float((shifts - shifts[:, :1, :1, :1]).abs().max()) < 0.1  # hue, saturation and contrast fix the middle grey
    assert 16 < float(shifts.abs().max()) < 32.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_transforms_on_cuda_equal_those_on_cpu() -> None:
    images, targets = images_and_targets([(20, 33), (31, 12), (32, 32)])
    on_device = [image.cuda() for image in images], [{"key": target["key"].cuda()} for target in targets]
    assert torch.equal(NormalizePad()(*on_device)[0].cpu(), NormalizePad()(images, targets)[0])
    chain = Compose(PhotometricDistort(), NormalizePad())
    torch.testing.assert_close(chain(*on_device)[0].cpu(), chain(images, targets)[0], atol=1e-4, rtol=1e-4)
