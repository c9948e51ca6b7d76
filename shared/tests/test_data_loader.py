"""The loaders give the same batches whatever the workers, processes, starting point or device."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vireo.data.loader import DeviceResidentLoader, Loader
from vireo.data.packing import pack, tensors_of
from vireo.data.random import counter_key
from vireo.data.transforms import Compose, NormalizePad, PhotometricDistort, detection_transforms
from vireo.errors import InputError


class Pictures:
    """Random images of three sizes (or one) with 0 to 3 boxes; ``broken`` ones raise as an unreadable file does."""

    def __init__(self, length: int = 23, broken: Iterable[int] = (), one_size: bool = False) -> None:
        self.length, self.broken, self.one_size = length, set(broken), one_size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        if index in self.broken:
            raise InputError("image is cut off", f"image_{index}.jpg", "restore the file")
        rng = np.random.default_rng(index)
        h, w = (24, 40) if self.one_size else [(24, 40), (40, 30), (33, 33)][index % 3]
        boxes = torch.from_numpy(rng.uniform(0, 20, (index % 4, 4)).astype(np.float32))
        boxes[:, 2:] += boxes[:, :2]
        target = {
            "boxes": boxes,
            "labels": torch.arange(len(boxes)),
            "iscrowd": torch.zeros(len(boxes), dtype=torch.bool),
            "image_id": index,
            "orig_size": (h, w),
            "size": (h, w),
            "scale": 1.0,
            "nested": {"pair": (torch.tensor(float(index)), "text")},
        }
        return torch.from_numpy(rng.integers(0, 256, (3, h, w), dtype=np.uint8)), target


def make(dataset: Any = None, **settings: Any) -> Loader:
    defaults = {
        "batch_size": 4,
        "shuffle": True,
        "seed": 3,
        "transform": detection_transforms(True, 20, 40),
        "device_transform": NormalizePad(),
    }
    return Loader(dataset or Pictures(), **{**defaults, **settings})


def assert_same(first: Any, second: Any) -> None:
    """Equal nested structures, tensors to the bit."""
    assert type(first) is type(second)
    if isinstance(first, Tensor):
        assert first.dtype == second.dtype
        assert torch.equal(first.cpu(), second.cpu())
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second):
            assert_same(one, other)
    else:
        assert first == second


def ids(batches: Iterable[Any]) -> list[list[int]]:
    return [[target["image_id"] for target in targets] for _, targets in batches]


def test_a_batch_holds_what_the_samples_say() -> None:
    (images, targets), *_ = Loader(Pictures(), batch_size=4, shuffle=False).batches(5)
    assert [target["image_id"] for target in targets] == [0, 1, 2, 3]
    for index, (image, target) in enumerate(zip(images, targets)):
        expected_image, expected = Pictures()[index]
        assert_same((image, target), (expected_image, {**expected, "key": torch.tensor(counter_key(0, 5, index))}))


def test_workers_do_not_change_the_batches() -> None:
    alone, helped = make(workers=0), make(workers=2)
    for epoch in (0, 1):  # the second epoch runs on the same persistent workers
        assert_same(list(helped.batches(epoch)), list(alone.batches(epoch)))
    assert_same(list(helped.batches(1, start=2)), list(alone.batches(1))[2:])
    assert len(list(helped)) == len(helped) == 6


def test_a_pass_that_was_left_early_does_not_disturb_the_next() -> None:
    loader = make(workers=2)
    left = loader.batches(0)
    next(left)
    assert_same(list(loader.batches(1)), list(make().batches(1)))
    with pytest.raises(RuntimeError, match="newer pass"):
        list(left)


def test_two_processes_see_the_batches_of_one() -> None:
    def two(**settings: Any) -> list[list[tuple[Any, list[dict]]]]:
        return [list(make(world_size=2, rank=rank, device_transform=None, **settings)) for rank in (0, 1)]

    for settings in ({"shuffle": True}, {"shuffle": False}):
        first, second = two(**settings)
        alone = list(make(device_transform=None, **settings))
        assert len(first) == len(second) == len(alone)
        for (images, targets), a, b in zip(alone, first, second):
            assert_same(images, a[0] + b[0])
            assert_same(targets, a[1] + b[1])


def test_augmentation_varies_between_epochs_and_repeats() -> None:
    dataset = Pictures(length=8)
    fixed = {"shuffle": False, "batch_size": 8, "device_transform": None}
    one, again, other = (next(make(dataset, **fixed).batches(epoch)) for epoch in (0, 0, 1))
    assert_same(one, again)
    assert any(not torch.equal(a, b) for a, b in zip(one[0], other[0]))


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.workers: -1 processes"):
        Loader([], batch_size=1, shuffle=False, workers=-1)


def test_loading_leaves_the_global_generators_alone() -> None:
    for workers in (0, 2):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        list(make(workers=workers))
        assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_sample_raises_its_own_error(workers: int) -> None:
    loader = make(Pictures(broken=[9]), shuffle=False, workers=workers)
    batches = loader.batches(0)
    assert [len(next(batches)[1]) for _ in range(2)] == [4, 4]
    with pytest.raises(InputError, match=r"^image_9\.jpg: image is cut off\. restore the file\.$"):
        next(batches)


def test_other_errors_in_a_worker_keep_their_type() -> None:
    def fail(image: Tensor, target: dict) -> tuple[Tensor, dict]:
        raise ZeroDivisionError("in a transform")

    with pytest.raises(ZeroDivisionError, match="in a transform"):
        list(make(transform=fail, workers=1))


def test_skipping_in_evaluation_leaves_broken_samples_out() -> None:
    broken = [1, 4, 5, 6, 7, 22]  # one whole batch among them
    loaders = [make(Pictures(broken=broken), shuffle=False, on_error="skip", workers=workers) for workers in (0, 2)]
    batches = [list(loader) for loader in loaders]
    assert ids(batches[0]) == [[0, 2, 3], [8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19], [20, 21]]
    assert_same(*batches)
    expected = [f"image_{index}.jpg: image is cut off. restore the file." for index in broken]
    for loader in loaders:
        list(loader)  # a second pass lists nothing twice
        assert loader.skipped == expected


def test_skipping_in_training_puts_the_next_sample_in_place() -> None:
    broken = [1, 2, 22]
    loaders = [make(Pictures(broken=broken), on_error="skip", workers=workers) for workers in (0, 2)]
    batches = [list(loader.batches(1)) for loader in loaders]
    assert_same(*batches)
    stand_in = {1: 3, 2: 3, 22: 0}
    expected = [[stand_in.get(i, i) for i in batch.tolist()] for batch in loaders[0].sampler.batches(1)]
    assert ids(batches[0]) == expected
    assert loaders[0].skipped == loaders[1].skipped
    assert len(loaders[0].skipped) == 3


def test_a_data_set_without_a_readable_sample_is_an_error_even_when_skipping() -> None:
    for kind in (Loader, DeviceResidentLoader):
        with pytest.raises(InputError, match=r"image_.*no sample can be read"):
            list(kind(Pictures(3, broken=range(3)), batch_size=2, shuffle=True, on_error="skip"))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("broken", [[], [2, 3, 18]])
def test_the_resident_loader_gives_the_same_batches(shuffle: bool, broken: list[int]) -> None:
    dataset = Pictures(19, broken=broken, one_size=True)
    settings: dict[str, Any] = {"batch_size": 4, "shuffle": shuffle, "seed": 1, "on_error": "skip"}
    shards: list[dict[str, Any]] = [{}, {"rank": 1, "world_size": 2}]
    for extra in shards:
        loader, resident = Loader(dataset, **settings, **extra), DeviceResidentLoader(dataset, **settings, **extra)
        assert len(loader) == len(resident)
        for epoch in (0, 1):
            assert_same(list(resident.batches(epoch, 1)), list(loader.batches(epoch, 1)))
        list(loader)
        assert set(loader.skipped) <= set(resident.skipped)
        assert len(resident.skipped) == len(broken)


def test_the_resident_loader_wants_one_size() -> None:
    with pytest.raises(InputError, match=r"sample 1: image of \(40, 30\) pixels among images of \(24, 40\)"):
        DeviceResidentLoader(Pictures(), batch_size=2, shuffle=True)


def test_pack_and_unpack() -> None:
    transposed = torch.arange(24, dtype=torch.uint8).view(2, 3, 4).permute(2, 0, 1)
    tree = {
        "a": [torch.tensor(True), torch.zeros(0, 4), transposed],
        "b": (torch.tensor([2**40]), "x", None, {"c": torch.rand(3, 5, dtype=torch.float64)}),
    }
    packed = pack(tree)
    unpacked = packed.unpack(torch.device("cpu"))
    assert_same(unpacked, tree)
    assert len(tensors_of(unpacked)) == 1
    assert len(tensors_of((transposed, [transposed[0]], torch.zeros(1)))) == 2


def test_workers_use_one_thread() -> None:
    def note_threads(image: Tensor, target: dict) -> tuple[Tensor, dict]:
        import cv2

        return image, {**target, "threads": (torch.get_num_threads(), cv2.getNumThreads())}

    for _, targets in make(transform=note_threads, workers=2):
        assert all(target["threads"] == (1, 1) for target in targets)


SIGNALLED = """
import signal, sys
sys.path.insert(0, {tests!r})
from test_data_loader import make
received = []
signal.signal(signal.SIGTERM, lambda *_: received.append(1))
loader = make(workers=2)
batches = loader.batches(0)
next(batches), next(batches)  # one from each worker: both have started
print("under way", flush=True)
while not received:
    signal.pause()
print(2 + len(list(batches)), flush=True)
# The loader is still alive at exit, where multiprocessing terminates and joins its workers: they must obey.
"""


def test_workers_outlive_a_termination_signal_that_the_main_process_handles() -> None:
    script = SIGNALLED.format(tests=os.path.dirname(__file__))
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "under way\n"
        os.killpg(process.pid, signal.SIGTERM)
        assert process.stdout.read() == "6\n"
        assert process.wait(timeout=60) == 0


def test_importing_the_loader_brings_in_neither_torchvision_nor_opencv() -> None:
    script = "import sys, vireo.data.loader, vireo.data.transforms; print({'torchvision', 'cv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "set()", done.stderr


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@cuda
@pytest.mark.parametrize("workers", [0, 2])
def test_cuda_batches_equal_those_of_the_cpu(workers: int) -> None:
    expected = list(make().batches(1))
    delivered = []
    for images, targets in make(device="cuda", workers=workers).batches(1):
        assert images.is_cuda
        assert targets[0]["nested"]["pair"][0].is_cuda
        torch.cuda._sleep(20_000_000)  # the consumer lags behind: batches must neither be overwritten nor come early
        delivered.append((images.clone(), targets))
    assert_same(delivered, expected)
    resident = [Loader, DeviceResidentLoader]
    first, second = (
        list(kind(Pictures(one_size=True), batch_size=4, shuffle=True, device=device, device_transform=NormalizePad()))
        for kind, device in zip(resident, ("cpu", "cuda"))
    )
    assert_same(second, first)


@pytest.mark.gpu
@cuda
def test_photometric_distortion_runs_on_the_side_stream() -> None:
    chain = Compose(PhotometricDistort(), NormalizePad())
    for (a, _), (b, _) in zip(make(device="cuda", device_transform=chain), make(device_transform=chain)):
        torch.testing.assert_close(a.cpu(), b, atol=1e-4, rtol=1e-4)
