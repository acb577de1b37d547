"""The ways through the backward of InPlace-ABN."""
import pytest

import mmrev.layers.inplace_abn.function as function


@pytest.fixture(params=['all_channels', 'some_channels', 'blocks'])
def backward_way(request, monkeypatch):
    """Tests' tensors are so small that all channels go at once; make the others go their ways too."""
    if request.param == 'some_channels':
        monkeypatch.setattr(function, '_channels_at_once', lambda z, batch: min(3, z.shape[1]) if z.numel() else 0)
    if request.param == 'blocks':
        monkeypatch.setattr(function, '_channels_at_once', lambda z, batch: 0)
        monkeypatch.setitem(function.BLOCK_BYTES, 'cpu', 64)
    return request.param
