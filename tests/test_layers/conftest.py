"""The ways through the backward of InPlace-ABN."""
import pytest

import mmrev.layers.inplace_abn.function as function


@pytest.fixture(params=['at_once', 'blocks'])
def backward_way(request, monkeypatch):
    """Tests' tensors are so small that all goes at once; make blocks go their way too."""
    if request.param == 'blocks':
        monkeypatch.setitem(function.SMALL_BYTES, 'cpu', 0)
        monkeypatch.setitem(function.BLOCK_BYTES, 'cpu', 64)
    return request.param
