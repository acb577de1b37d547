import torch

from mmrev.testing import PeakMemory, bytes_per_sample


def test_peak_counts_what_is_alive_at_once():
    with PeakMemory() as memory:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b.view(10, 100)  # no bytes of its own
        assert memory.current == 4000
        del b, c
        assert memory.current == 0
    assert memory.peak == 8000


def test_peak_counts_what_autograd_keeps():
    x = torch.zeros(1000, requires_grad=True)
    with PeakMemory() as memory:
        y = x.sin().cos()
        assert memory.current == 8000  # sin(x), kept for the cosine's backward, and y
        y.sum().backward()
        del y
        assert memory.current == 4000  # x.grad


def test_operator_that_returns_nothing_is_no_obstacle():
    with PeakMemory() as memory:
        with torch.autograd.profiler.record_function('a name'):
            torch._assert_async(torch.ones(1))
    assert memory.peak == 4


def test_peak_can_be_reset():
    with PeakMemory() as memory:
        torch.zeros(1000)
        memory.reset_peak()
        torch.zeros(10)
    assert memory.peak == 40


def test_bytes_per_sample_is_the_slope():

    def step(batch):
        keep = torch.zeros(batch, 25), torch.zeros(1000)
        return keep

    assert bytes_per_sample(step, 1, 4) == 100
