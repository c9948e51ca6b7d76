"""Arrays on the device give the batches of the loader that decodes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from vireo.data import (
    ArrayLoader,
    Compose,
    GeneratedClasses,
    HorizontalFlip,
    Loader,
    Normalize,
    RandomCrop,
    stack_classification,
)
from vireo.errors import InputError

DATA = GeneratedClasses(23, (16, 16), num_classes=3)
AUGMENT = (RandomCrop(2), HorizontalFlip(), Normalize())


def resident(**settings: Any) -> ArrayLoader:
    defaults = {"batch_size": 6, "shuffle": True, "seed": 3, "device_transform": Compose(*AUGMENT)}
    return ArrayLoader.of(DATA, **{**defaults, **settings})


def assert_same(one: Any, other: Any) -> None:
    one, other = list(one), list(other)
    assert len(one) == len(other) > 0
    for (images, targets), (other_images, other_targets) in zip(one, other):
        assert torch.equal(images, other_images)
        assert targets.keys() == other_targets.keys() == {"label", "index", "key"}
        for field, value in targets.items():
            assert value.dtype == other_targets[field].dtype == torch.int64
            assert torch.equal(value, other_targets[field])


@pytest.mark.parametrize(
    "settings",
    [{}, {"shuffle": False}, {"drop_last": True}, {"rank": 1, "world_size": 2}, {"shuffle": False, "world_size": 2}],
)
def test_same_batches_as_the_loader(settings: dict[str, Any]) -> None:
    common = {"batch_size": 6, "shuffle": True, "seed": 3, **settings}
    decoding = Loader(DATA, device_transform=Compose(stack_classification, *AUGMENT), **common)
    loader = resident(**settings)
    assert len(loader) == len(decoding) == len(list(loader))
    for epoch in (0, 1):
        assert_same(loader.batches(epoch), decoding.batches(epoch))
    assert_same(loader.batches(1, start=2), list(decoding.batches(1))[2:])
    assert_same(loader, loader.batches(0))


def test_processes_share_the_global_batch() -> None:
    ranks = [resident(rank=rank, world_size=2) for rank in range(2)]
    for (whole, _), (one, _), (other, _) in zip(resident().batches(5), *(rank.batches(5) for rank in ranks)):
        assert torch.equal(torch.cat((one, other)), whole)


def test_without_a_transform_batches_are_the_bytes() -> None:
    images, targets = next(iter(resident(device_transform=None, shuffle=False)))
    assert torch.equal(images, DATA.arrays()[:6])
    assert targets["index"].tolist() == list(range(6))
    assert targets["label"].tolist() == DATA.labels[:6].tolist()
    images.zero_()  # a batch is a copy
    assert resident(device_transform=None).images.any()


def test_any_targets() -> None:
    soft = torch.rand(23, 4)
    index = torch.arange(23).flip(0)
    loader = ArrayLoader(DATA.arrays(), {"soft": soft, "index": index}, batch_size=5, shuffle=False)
    assert loader.skipped == []
    _, targets = list(loader)[1]
    assert torch.equal(targets["soft"], soft[5:10])
    assert targets["index"].tolist() == [17, 16, 15, 14, 13]


def test_after_the_last_batch_there_is_nothing() -> None:
    assert list(resident().batches(0, start=4)) == []


def test_what_the_data_set_skipped_is_passed_on() -> None:
    class Damaged(GeneratedClasses):
        def load_image(self, index: int) -> Tensor:
            if self.sources[index] == 2:
                raise InputError("image is cut off", "c.jpg", "restore it")
            return super().load_image(index)

        def arrays(self, workers: int = 1) -> Tensor:
            return super(GeneratedClasses, self).arrays(workers)

    data = Damaged(5, (16, 16), num_classes=3)
    data.on_error = "skip"
    loader = ArrayLoader.of(data, batch_size=4, shuffle=False)
    assert loader.skipped == ["c.jpg: image is cut off"]
    _, targets = next(iter(loader))
    assert targets["label"].tolist() == [0, 1, 0, 1]
    assert targets["index"].tolist() == [0, 1, 2, 3]


def test_wrong_lengths() -> None:
    with pytest.raises(InputError, match="target 'label': 3 values for 23 images"):
        ArrayLoader(DATA.arrays(), {"label": torch.zeros(3)}, batch_size=4, shuffle=True)


def test_stacking_needs_one_size() -> None:
    images = [torch.zeros(3, 4, 5), torch.zeros(3, 6, 5)]
    with pytest.raises(InputError, match=r"images of 2 sizes \(h, w\) in one batch, e.g. \(4, 5\) and \(6, 5\)"):
        stack_classification(images, [{}, {}])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_gives_the_same_batches_without_waiting() -> None:
    loader = resident(device="cuda")
    batches = loader.batches(2)
    first = next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        rest = list(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    on_cpu = [
        (images.cpu(), {name: value.cpu() for name, value in targets.items()}) for images, targets in (first, *rest)
    ]
    assert_same(on_cpu, resident().batches(2))
