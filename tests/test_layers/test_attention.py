"""Attention with a trained bias chooses a kernel that differentiates it, in the forward and in the recomputation."""
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from mmrev import compat
from mmrev.layers import MultiheadAttention, PoolingAttention, WindowAttention, attention
from mmrev.reversible import ReversibleSequence, TwoStreamCoupling

LAYERS = {
    'window': lambda: WindowAttention(8, 2, window_size=4),
    'shifted': lambda: WindowAttention(8, 2, window_size=4, shift=2),
    'pooling': lambda: PoolingAttention(8, 2, (8, 8), stride_kv=2, window_size=4),
    'pooling without windows': lambda: PoolingAttention(8, 2, (8, 8), stride_q=2),
}


@pytest.fixture
def calls(monkeypatch):
    """What attention is called with: the bias, and whether cuDNN's kernel may be chosen."""
    found, attention = [], F.scaled_dot_product_attention

    def note(q, k, v, bias=None, dropout_p=0.):
        found.append((bias, torch.backends.cuda.cudnn_sdp_enabled()))
        return q.new_empty((*q.shape[:-1], v.shape[-1])) if q.is_cuda else attention(q, k, v, bias, dropout_p)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', note)
    return found


@pytest.mark.parametrize('has_graph', [True, False])
@pytest.mark.parametrize('name', LAYERS)
def test_on_a_gpu_cudnn_does_not_attend_with_a_bias(calls, name, has_graph):
    """With fake CUDA tensors. cuDNN's kernel has no gradient for the bias, which matters only with a graph."""
    with FakeTensorMode(), torch.device('cuda'), torch.set_grad_enabled(has_graph):
        LAYERS[name]()(torch.randn(2, 8, 8, 8))
    (bias, cudnn), = calls
    assert not cudnn and bias.is_cuda
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_on_a_gpu_attention_without_a_bias_leaves_the_kernel_to_pytorch(calls):
    with FakeTensorMode(), torch.device('cuda'):
        MultiheadAttention(8, 2)(torch.randn(2, 16, 8))
    assert calls == [(None, True)]


def test_a_compiled_function_chooses_the_kernel_without_cudnn_too(monkeypatch):
    """The choice is a node of the graph, before the attention; afterwards cuDNN's kernel is allowed as before."""
    choices, without_cudnn = [], compat.without_cudnn_attention
    monkeypatch.setattr(compat, 'without_cudnn_attention', lambda device_type: without_cudnn('cuda'))

    def note(graph, _):
        choices.append([node.args[0] if node.target is torch.nn.attention._backend_from_string else node.target
                        for node in graph.graph.nodes if node.op == 'call_function'])
        return graph.forward

    layer, (q, k, v) = MultiheadAttention(8, 2), torch.randn(3, 2, 2, 16, 4)
    torch.compile(layer.attend, backend=note, fullgraph=True)(q, k, v, torch.zeros(1, 2, 16, 16, requires_grad=True))
    before, after = (found.index(F.scaled_dot_product_attention) for found in (choices[0], choices[0][::-1]))
    assert 'MATH' in choices[0][:before] and 'CUDNN_ATTENTION' not in choices[0][:before]
    assert 'CUDNN_ATTENTION' in choices[0][-after:] and torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize('name', LAYERS)
def test_the_bias_is_contiguous(calls, name):
    """With another stride of its last dimension, a GPU falls back to the kernel that forms the matrix of weights."""
    layer = LAYERS[name]()
    layer(torch.randn(2, 8, 8, 8))
    assert calls[0][0].is_contiguous()


@pytest.fixture
def masks(monkeypatch):
    """The masks of shifted windows that are computed."""
    made, make = [], attention.apart_in_windows

    def note(*args):
        made.append(args)
        return make(*args)

    monkeypatch.setattr(attention, 'apart_in_windows', note)
    return made


def test_the_mask_of_shifted_windows_is_computed_once_for_each_size(masks):
    couplings = [TwoStreamCoupling(LAYERS['shifted'](), LAYERS['shifted']()) for _ in range(2)]
    module = ReversibleSequence(couplings)
    streams = [torch.randn(2, 8, 8, 8) for _ in range(2)]
    sum(y.sum() for y in module(*streams)).backward()  # the first call is observed
    masks.clear()
    for side in (8, 16, 8):
        sum(y.sum() for y in module(*[torch.randn(2, side, side, 8) for _ in range(2)])).backward()
    assert [args[0] for args in masks] == [8, 16]


def test_no_mask_of_fake_or_inference_tensors_is_kept(masks):
    layer, x = LAYERS['shifted'](), torch.randn(2, 8, 8, 8)
    with FakeTensorMode(allow_non_fake_inputs=True):
        layer(torch.randn(2, 8, 8, 8))
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert len(masks) == 3 and layer.relative_position_bias_table.grad is not None
