"""Other tensors that autograd saves: the indices of max pooling and the noise of dropout."""
from functools import partial
from operator import itemgetter
from typing import Any, List, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .recipe import Kept, Recipe, Saved
from .recorder import Recorder
from .table import handles

# Largest window, in elements, whose pooling is recomputed; for larger ones the indices are stored with fewer bits.
WINDOW = 9


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
    window = kernel_size**2 if isinstance(kernel_size, int) else kernel_size[0] * kernel_size[-1]
    layout = indices.tensor.size(), indices.tensor.stride(), torch.int64
    source, cost = recorder.source(input)
    if window > WINDOW:
        small = torch.int16 if input.shape[-2] * input.shape[-1] < 2**15 else torch.int32
        indices.replace(Recipe(recorder.values, Tensor.long, [Kept(indices.tensor.to(small))], None, layout))
    elif not cost:
        pool = Recipe(recorder.values, torch._C._nn.max_pool2d_with_indices, [
            source, kernel_size, [] if stride is None else stride, padding, dilation, ceil_mode])
        recorder.write(out, itemgetter(0), [pool])
        indices.replace(Recipe(recorder.values, itemgetter(1), [pool], None, layout))
    return out


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
