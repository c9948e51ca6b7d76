"""Learning rates by epoch (section 4)."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from if_nas.learning_rates import epoch_schedule
from vireo.errors import InputError


def test_cosine_is_that_of_torch_in_closed_form() -> None:
    """250 epochs from 0.5 to 1e-4, as for ImageNet-1K."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.5)
    theirs = CosineAnnealingLR(optimizer, 250, 1e-4)
    factor = epoch_schedule("cosine", 250, final=1e-4 / 0.5)
    for epoch in range(250):
        assert 0.5 * factor(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_warm_up_multiplies_the_first_epochs() -> None:
    plain, warm = (epoch_schedule("cosine", 250, 7, warmup_epochs=epochs) for epochs in (0, 5))
    for epoch, share in enumerate((0.2, 0.4, 0.6, 0.8, 1.0, 1.0)):
        for step in (7 * epoch, 7 * epoch + 6):
            assert warm(step) == pytest.approx(share * plain(step))


def test_linear_ends_one_epoch_short_of_its_final_factor() -> None:
    factor = epoch_schedule("linear", 10, final=0.5)
    assert factor(0) == 1
    assert factor(9) == pytest.approx(0.55)


def test_mistakes() -> None:
    with pytest.raises(InputError, match=r"optim.schedule: unknown schedule 'step'. use one of linear, cosine"):
        epoch_schedule("step", 10)
    with pytest.raises(InputError, match="linear_tail needs more than 5 epochs"):
        epoch_schedule("linear_tail", 5)
