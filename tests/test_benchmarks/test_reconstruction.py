"""The figures in the table of reconstruction errors."""
import pytest
import reconstruction
import torch


@pytest.mark.parametrize('name', reconstruction.PRECISIONS)
def test_kept_states_bring_the_reconstruction_nearer(name):
    found = reconstruction.measure(8, 64, 2, reconstruction.PRECISIONS[name], [None, 1], seeds=1)
    far, kept = (found[every]['reconstruction'] for every in (None, 1))
    assert 0 < kept <= far < 1e-2
    for every in (None, 1):
        assert found[every]['over plain'] == found[every]['gradient'] / found['plain']['gradient']
        assert 0.8 < found[every]['over plain'] < 1.2


def test_the_distance_of_gradients_is_relative():
    exact = [torch.tensor([3., 0.]), torch.tensor([[4.]])]
    assert reconstruction.distance(exact, exact) == 0
    assert reconstruction.distance([2 * x for x in exact], exact) == 1
    assert reconstruction.distance([exact[0], exact[1] + 5], exact) == 1
