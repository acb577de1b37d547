"""Nothing of a backbone waits for a device: its forward and backward are queued without a value being read.

On the CPU, operators that return a value of a tensor, or a tensor whose size depends on values, are counted in forward
and backward. Copies between host and device are counted on the meta device in forward and backward, and with fake CUDA
tensors, which cannot be differentiated without a GPU, in the forward.
"""
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mmrev.reversible import ReversibleSequence, TwoStreamCoupling
from support.backbones import BACKBONES, HEIGHT, WIDTH, build
from support.images import image

pytestmark = pytest.mark.slow

REVBIFPN_IABN = dict(norm_cfg=dict(type='mmrev.InPlaceABN', activation='leaky_relu'))
NETWORKS = [(name, {}) for name in BACKBONES] + [('RevBiFPN', REVBIFPN_IABN)]
READING = ('equal', '_local_scalar_dense', 'is_nonzero', 'nonzero', 'masked_select', '_unique2', 'unique_dim',
           'unique_consecutive', 'bincount', 'histc', 'repeat_interleave')
INDEXING = ('index', 'index_put', 'index_put_', '_index_put_impl_')
COPYING = ('copy_', '_to_copy')


class Waits(TorchDispatchMode):
    """Notes the operators for which the host would wait until a device has computed values."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._schema.name.removeprefix('aten::')
        by_mask = name in INDEXING and any(
            isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in tree_flatten(args[1])[0])
        devices = {x.device.type for x in tree_flatten((args, kwargs, out))[0] if isinstance(x, Tensor)}
        if name in READING or by_mask or name in (*COPYING, *INDEXING) and len(devices) > 1:
            self.found.append(name)
        return out


def total(outputs):
    return sum(x.float().sum() for x in tree_flatten(outputs)[0])


@pytest.mark.parametrize('name, options', NETWORKS)
def test_no_operator_of_a_training_step_reads_values(name, options):
    """In the first call, which is observed, and in later ones."""
    model, x = build(name, **options).train(), image(2, HEIGHT, WIDTH)
    for _ in range(2):
        with Waits() as waits:
            total(model(x)).backward()
        assert waits.found == []


@pytest.mark.parametrize('name, options', NETWORKS)
def test_a_training_step_copies_nothing_between_host_and_device(name, options):
    """On the meta device, where to read a value is an error."""
    with torch.device('meta'):
        model, x = build(name, **options).train(), torch.randn(2, 3, HEIGHT, WIDTH)
    for _ in range(2):
        with Waits() as waits:
            total(model(x)).backward()
        assert waits.found == []


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('name, options', NETWORKS)
def test_a_forward_on_a_gpu_copies_nothing_between_host_and_device(name, options, train):
    with FakeTensorMode(), torch.device('cuda'):
        model, x = build(name, **options).train(train), torch.randn(2, 3, HEIGHT, WIDTH)
        assert next(model.parameters()).is_cuda
        with Waits() as waits, torch.set_grad_enabled(train):
            model(x)
        assert waits.found == []


class Scaled(nn.Linear):
    """Reads a buffer and never writes it."""

    def __init__(self):
        super().__init__(4, 4)
        self.register_buffer('scale', torch.ones(4))

    def forward(self, x):
        return super().forward(x) * self.scale


def test_on_a_device_the_values_of_a_buffer_are_not_compared():
    """Whether a function writes it is known from operators and versions. On the meta device there are no values."""
    with torch.device('meta'):
        module = ReversibleSequence([TwoStreamCoupling(Scaled(), Scaled()) for _ in range(2)])
        for _ in range(2):
            total(module(torch.randn(2, 4), torch.randn(2, 4))).backward()
    assert module.couplings[0].f.weight.grad.shape == (4, 4)


@pytest.mark.parametrize('operation', [
    lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool((x > 0).all()), lambda x: torch.equal(x, x + 1),
    lambda x: x.nonzero(), lambda x: x.masked_fill_(x > 0, 0)[x > 0]
])
def test_waits_are_counted(operation):
    with Waits() as waits:
        operation(torch.randn(3))
    assert len(waits.found) == 1
    with FakeTensorMode(), pytest.raises(DataDependentOutputException), torch.device('cuda'):
        torch.randn(3).sum().item()
    with FakeTensorMode(), Waits() as waits:
        torch.randn(3, device='cuda').cpu()
        torch.tensor([1., 2.]).to('cuda')
        torch.randn(3, device='cuda')[torch.tensor([0, 2])]
    assert waits.found == ['_to_copy', '_to_copy', 'index']
