"""Attention with a bias that is trained asks for a kernel that differentiates it, before and in the recomputation."""
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from mmrev.layers import MultiheadAttention, PoolingAttention, WindowAttention

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
    """With fake CUDA tensors. cuDNN's kernel has no gradient for the bias, which shows only where a graph is."""
    with FakeTensorMode(), torch.device('cuda'), torch.set_grad_enabled(has_graph):
        LAYERS[name]()(torch.randn(2, 8, 8, 8))
    (bias, cudnn), = calls
    assert not cudnn and bias.is_cuda
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_on_a_gpu_attention_without_a_bias_leaves_the_kernel_to_pytorch(calls):
    with FakeTensorMode(), torch.device('cuda'):
        MultiheadAttention(8, 2)(torch.randn(2, 16, 8))
    assert calls == [(None, True)]


@pytest.mark.parametrize('name', LAYERS)
def test_the_bias_is_contiguous(calls, name):
    """With another stride of its last dimension, a GPU falls back to the kernel that forms the matrix of weights."""
    layer = LAYERS[name]()
    layer(torch.randn(2, 8, 8, 8))
    assert calls[0][0].is_contiguous()
