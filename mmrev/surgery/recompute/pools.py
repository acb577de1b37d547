"""Other tensors that autograd saves: the indices of max pooling and the noise of dropout."""
from functools import partial
from typing import Any, List, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .recipe import Kept, Recipe, Saved
from .recorder import Recorder
from .table import handles


@handles(F.max_pool2d, torch.max_pool2d)
def _max_pool(recorder, function, args, kwargs):
    return _pool(recorder, function, *args, **kwargs)


def _pool(recorder: Recorder, function, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False,
          return_indices=False) -> Any:
    if return_indices:
        return function(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    recorder.begin()
    out = function(input, kernel_size, [] if stride is None else stride, padding, dilation, ceil_mode)
    indices = _saved_new(recorder, torch.int64, out)
    if indices is None:
        return out
    layout = indices.tensor.size(), indices.tensor.stride(), torch.int64
    narrow = torch.int16 if input.shape[-2] * input.shape[-1] <= 2**16 else torch.int32
    places = Recipe(recorder.values, _wide, [Kept(indices.tensor.to(narrow))], None, layout)
    indices.replace(places)
    source, cost = recorder.source(input)
    recorder.write(out, _gather, [source, places], cost)
    return out


def _wide(indices: Tensor) -> Tensor:
    """int64 from int32, or from int16 without a sign."""
    return indices.long() if indices.dtype == torch.int32 else indices.long().bitwise_and_(0xFFFF)


def _gather(x: Tensor, indices: Tensor) -> Tensor:
    """The values of a pooling, several times faster than the pooling."""
    values = x.flatten(-2).gather(-1, indices.flatten(-2)).view(indices.shape)
    return values if values.stride() == indices.stride() else torch.empty_like(indices, dtype=x.dtype).copy_(values)


@handles(F.dropout)
def _dropout(recorder, function, args, kwargs):
    return _drop(recorder, function, *args, **kwargs)


def _drop(recorder: Recorder, function, input, p=0.5, training=True, inplace=False) -> Tensor:
    if not training or not 0 < p < 1 or inplace:
        return function(input, p, training, inplace)
    recorder.begin()
    out = function(input, p, training)
    noise = _saved_new(recorder, input.dtype, input)
    if noise is not None:  # on CPUs: 0 or 1 / (1 - p), as many bytes as the input
        layout = noise.tensor.size(), noise.tensor.stride(), noise.tensor.dtype
        mask = Kept(noise.tensor != 0)
        recipe = Recipe(recorder.values, partial(_noise, dtype=input.dtype, p=p), [mask], None, layout)
        noise.replace(recipe)
        source, cost = recorder.source(input)
        recorder.write(out, torch.mul, [source, recipe], cost, Tensor.mul_)
    return out


def _noise(mask: Tensor, dtype: torch.dtype, p: float) -> Tensor:
    return mask.to(dtype).div_(1 - p)


def _saved_new(recorder: Recorder, dtype: torch.dtype, like: Tensor) -> Optional[Saved]:
    """A tensor of this type and size that the operator saved and that is neither its input nor its output."""
    found: List[Saved] = [
        saved for saved in recorder.recent if saved.tensor is not None and saved.tensor.dtype == dtype
        and saved.tensor.shape == like.shape
        and saved.tensor.untyped_storage()._cdata != like.untyped_storage()._cdata]
    return found[0] if len(found) == 1 else None
