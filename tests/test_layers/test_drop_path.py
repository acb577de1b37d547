import pytest
import torch

from mmrev.layers import DropPath
from mmrev.testing import PeakMemory


def test_samples_are_dropped_whole_and_the_mean_is_kept():
    torch.manual_seed(0)
    out = DropPath(0.25)(torch.ones(4000, 2, 3))
    values = out.flatten(1)
    assert values.unique().tolist() == [0., pytest.approx(4 / 3)]
    assert (values == values[:, :1]).all()
    assert values.mean().item() == pytest.approx(1, abs=0.03)


def test_eval_changes_nothing_and_draws_nothing():
    x = torch.randn(4, 3)
    state = torch.get_rng_state()
    assert DropPath(0.5).eval()(x) is x and DropPath(0.)(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_only_the_mask_is_kept_for_backward():
    x = torch.randn(8, 1000, requires_grad=True)
    with PeakMemory() as memory:
        out = DropPath(0.5)(x)
        assert memory.current == 8 * 1000 * 4 + 8 * 4
    assert out.requires_grad


def test_probability_one_is_refused():
    with pytest.raises(ValueError, match=r'`drop_prob` must lie in \[0, 1\), got 1'):
        DropPath(1)
