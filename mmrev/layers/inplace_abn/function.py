"""The autograd function: stores the output and recovers from it what the backward of a batch normalization needs.

With ``g = |weight| + eps`` and ``y = g * xhat + bias``, ``z = act(y)`` (Rota Bulò et al. 2018, section 3.1):

    y = act^-1(z),  dy = dz * act'(y),  xhat = (y - bias) / g
    dbias = sum(dy),  dweight = sign(weight) * sum(dy * xhat)
    dx = g / std * (dy - sum(dy) / n - xhat * sum(dy * xhat) / n)    the batch's statistics, n values per channel
    dx = g / std * dy                                                 running statistics

The backward of a batch normalization that has input ``y``, mean ``bias``, deviation ``g`` and weight ``g^2 / std`` is
the same three lines, so ATen's kernel computes all of it. As published, the sign of a weight of 0 is +1; so a weight
that starts at 0 can grow.

Where a residual block adds its shortcut ``r`` before the activation, ``z = act(y + r)``: the next block stores ``z`` as
its input, this one has stored ``r`` as its own, and ``y = act^-1(z) - r``, ``dr = dy``. In half precision that
difference has few digits left, and none if the weight starts at 0, so the input ``x`` is stored there instead of ``r``:
``xhat = (x - mean) / std``, and the rest is the same.
"""
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses import FakeTensor

from mmrev import compat

from .statistics import Settings, normalize

native_batch_norm_backward = torch.ops.aten.native_batch_norm_backward

# The backward has two algorithms. A small output takes one call of ATen's kernel, whose intermediate results are as
# large as the output; in blocks it would take twice the time. A larger output is processed in blocks of an eighth of
# it, but at least BLOCK_BYTES and at most four times that, so that only the gradient of the input is as large as the
# output. So is an output with statistics over processes, which have to be reduced between the sums and the gradient of
# the input. A third algorithm, a few channels of all samples at a time, would save 6% of the backward on a CPU.
# On GPUs a block launches about ten kernels, so only large blocks keep the GPU busy.
SMALL_BYTES = {'cpu': 2**20, 'cuda': 2**26}  # CPU: per thread, fits in a cache with three intermediate results
BLOCK_BYTES = {'cpu': 2**18, 'cuda': 2**26}
DEFAULT_BLOCK_BYTES = 2**23

HALF_PRECISION = (torch.float16, torch.bfloat16)


class InPlaceABNFunction(torch.autograd.Function):
    """``apply(x, weight, bias, residual, settings)``; ``weight``, ``bias`` and ``residual`` may be ``None``."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], residual: Optional[Tensor],
                settings: Settings) -> Tensor:
        out = normalize(x, weight, bias, settings, residual)
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        ctx.settings = settings._replace(running_mean=None, running_var=None)
        ctx.shape, ctx.count = tuple(out.z.shape), out.count
        needs_value = (settings.batch and needs_x) or needs_weight
        # A gradient without activation by running statistics depends on nothing but the vectors.
        keeps_output = settings.batch or needs_weight or settings.activation.name != 'identity'
        ctx.keeps_input = residual is not None and needs_value and out.z.dtype in HALF_PRECISION
        negative = weight < 0 if needs_weight else None
        center, other = (out.mean.clone(), x) if ctx.keeps_input else (out.shift, residual if needs_value else None)
        ctx.keeps_another = other is not None
        vectors = (v if v is None or v.dtype not in HALF_PRECISION else v.float()
                   for v in (out.scale, center, out.invstd))  # whose squares overflow half precision
        ctx.save_for_backward(out.z if keeps_output else None, *vectors, negative, other)
        return out.z

    @staticmethod
    def backward(ctx, dz: Tensor):
        if torch.is_grad_enabled():  # the error of `once_differentiable` does not always reach the user
            raise RuntimeError(f'{ctx.settings.name} has no second derivatives (`create_graph=True`), because its '
                               f'input is not stored; use a norm and an activation in its place')
        if compat.is_batched(dz):
            raise RuntimeError(f'{ctx.settings.name} cannot propagate a batch of gradients (`is_grads_batched=True`, '
                               f'`vectorize=True`, `vmap`); propagate them one by one')
        z, scale, center, invstd, negative, other = _saved(ctx)
        x, residual = (other, None) if ctx.keeps_input else (None, other)
        kept = _Kept(dz if z is None else z, scale, invstd, center, invstd if ctx.keeps_input else 1 / scale, ctx.count,
                     residual, x)
        needs = ctx.needs_input_grad[:4]
        if _is_small(kept.z) and not ctx.settings.sync and (ctx.settings.batch or needs[1]):
            dx, dweight, dbias, dresidual = _at_once(dz, kept, ctx.settings, needs)
        else:
            dx, dweight, dbias, dresidual = _by_blocks(dz, kept, ctx.settings, needs)
        if dweight is not None:
            dweight = torch.where(negative, -dweight, dweight)
        return dx, dweight, dbias, dresidual, None


def _saved(ctx) -> Sequence[Optional[Tensor]]:
    try:
        return ctx.saved_tensors
    except RuntimeError as error:
        if 'inplace operation' not in str(error):
            raise
        also = ', or the input or the residual given to it,' if ctx.keeps_another else ''
        raise RuntimeError(
            f'the output of {ctx.settings.name}, shape {ctx.shape},{also} was modified in place before its backward. '
            f'The layer stores nothing else, so later layers must not change it: `out = out + x` instead of '
            f'`out += x`, `inplace=False` in the next layer') from error


class _Kept(NamedTuple):
    """The output, vectors ``(C,)``, and what the normalized value is taken from: ``xhat = (value - center) * inverse``,
    where the value is ``x`` if that was kept and else ``y``."""
    z: Tensor
    scale: Tensor
    invstd: Tensor
    center: Tensor
    inverse: Tensor
    count: Any
    residual: Optional[Tensor]
    x: Optional[Tensor]


class _Block(NamedTuple):
    index: Tuple[slice, ...]  # of the tensor
    channels: slice


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _block_bytes(z: Tensor) -> int:
    least = BLOCK_BYTES.get(z.device.type, DEFAULT_BLOCK_BYTES)
    most = _bytes(z) if isinstance(z, FakeTensor) else 4 * least  # each operator on them costs the same, of any size
    return max(least, min(most, _bytes(z) // 8))


def _blocks(z: Tensor) -> Iterator[_Block]:
    """Cover a dense tensor by contiguous blocks of about the allowed size: samples, or parts of one sample."""
    if not z.numel():
        return
    everything, limit = slice(None), _block_bytes(z)
    sample = _bytes(z[0])
    if sample <= limit or z.ndim == 2:
        step = max(1, limit // sample)
        for i in range(0, len(z), step):
            yield _Block((slice(i, i + step), ), everything)
        return
    dim = max(range(1, z.ndim), key=lambda d: (z.stride(d) if z.shape[d] > 1 else 0))  # outermost within a sample
    step = max(1, z.shape[dim] * limit // sample)
    for i in range(len(z)):
        for j in range(0, z.shape[dim], step):
            part = slice(j, j + step)
            yield _Block((slice(i, i + 1), *[everything] * (dim - 1), part), part if dim == 1 else everything)


def _is_small(z: Tensor) -> bool:
    threads = torch.get_num_threads() if z.device.type == 'cpu' else 1
    return 0 < _bytes(z) <= threads * SMALL_BYTES.get(z.device.type, DEFAULT_BLOCK_BYTES)


def _at_once(dz: Tensor, kept: _Kept, s: Settings, needs: Sequence[bool]) -> List[Optional[Tensor]]:
    """The gradients by one call of the backward of a batch normalization."""
    z, dtype = kept.z.to(kept.scale.dtype), kept.scale.dtype
    dy = s.activation.differentiate(dz.to(dtype), z, torch.empty_like(z))
    weight, var = kept.scale * kept.invstd / kept.inverse, kept.inverse.square().reciprocal()
    dx, dweight, dbias = native_batch_norm_backward(
        dy, _value(z, kept, (), s), weight, kept.center, var, kept.center, kept.inverse, s.batch, 0.,
        [needs[0], True, True])
    return [dx.to(kept.z.dtype) if needs[0] else None, dweight if needs[1] else None, dbias if needs[2] else None,
            dy.to(kept.z.dtype) if needs[3] else None]


def _by_blocks(dz: Tensor, kept: _Kept, s: Settings, needs: Sequence[bool]) -> List[Optional[Tensor]]:
    """The gradients block by block: first the sums, then, with the batch's statistics, the input's gradient.

    The arithmetic is in the parameters' type, also for an output in half precision.
    """
    dresidual = torch.empty_like(kept.z) if needs[3] else None  # is dy
    dx = torch.empty_like(kept.z) if needs[0] else None  # holds dy between the two, if nothing else does
    sums = torch.stack([kept.scale, kept.scale]).zero_()  # sum(dy), sum(dy * xhat)
    factor = kept.scale * kept.invstd
    for block in _blocks(kept.z):
        dy = _reduce_block(dz, kept, s, needs, block, dx if dresidual is None else dresidual, sums)
        if dresidual is not None and dy.dtype != dresidual.dtype:
            dresidual[block.index].copy_(dy)
        if dx is not None and not s.batch:
            torch.mul(dy, _broadcast(factor, dy, block), out=dx[block.index])
        elif dx is not None and dresidual is None and dy.dtype != dx.dtype:
            dx[block.index].copy_(dy)
    if s.batch and needs[0]:
        joint = sums
        if s.sync:
            joint = sums.clone()
            dist.all_reduce(joint, group=s.group)
        _finish_blocks(dx, dx if dresidual is None else dresidual, kept, s, joint)
    return [dx, sums[1] if needs[1] else None, sums[0] if needs[2] else None, dresidual]


def _reduce_block(dz, kept: _Kept, s: Settings, needs, block: _Block, into: Optional[Tensor], sums: Tensor):
    """Return a block of ``dy``, within ``into`` if the types allow it, and add its sums."""
    dtype = kept.scale.dtype
    z, dz = (t[block.index].to(dtype) for t in (kept.z, dz))
    own = torch.empty_like(z) if into is None or into.dtype != dtype else into[block.index]
    dy = s.activation.differentiate(dz, z, own)
    c = block.channels
    if needs[1] or (s.batch and needs[0]):
        value = _value(z, kept, block.index, s)
        _, dot, total = native_batch_norm_backward(
            dy, value, kept.scale[c], None, None, kept.center[c], kept.inverse[c], True, 0., [False, True, True])
        sums[0, c] += total
        sums[1, c] += dot
    elif needs[2]:
        sums[0, c] += dy.sum([d for d in range(dy.ndim) if d != 1])
    return dy


def _finish_blocks(dx: Tensor, dy: Tensor, kept: _Kept, s: Settings, sums: Tensor) -> None:
    """Write the gradient of the input, a combination of ``dy``, the value and 1 per channel, into ``dx``.

    ``dx`` may be ``dy``.
    """
    of_dy = kept.scale * kept.invstd
    of_value = -of_dy * kept.inverse * sums[1] / kept.count
    of_one = -of_dy * sums[0] / kept.count - of_value * kept.center
    for block in _blocks(kept.z):
        z = kept.z[block.index].to(of_dy.dtype)
        kept_value = _value(z, kept, block.index, s)
        own = None if kept_value is z or kept.x is not None else kept_value  # not a tensor of others
        value = torch.mul(kept_value, _broadcast(of_value, z, block), out=own).add_(_broadcast(of_one, z, block))
        part, out = dy[block.index], dx[block.index]
        if out.dtype == value.dtype:
            torch.addcmul(value, part, _broadcast(of_dy, value, block), out=out)
        else:
            out.copy_(value.addcmul_(part.to(value.dtype), _broadcast(of_dy, value, block)))
        del z, kept_value, own, value  # before the next ones are made


def _value(z: Tensor, kept: _Kept, index: Tuple[slice, ...], s: Settings) -> Tensor:
    """A part of ``x`` or ``y``, in the type of the same part ``z``; not to be written to if it is ``z`` or of ``x``."""
    if kept.x is not None:
        return kept.x[index].to(z.dtype)
    y = z if s.activation.keeps_values else s.activation.invert(z, torch.empty_like(z))
    if kept.residual is None:
        return y
    residual = kept.residual[index]
    return torch.sub(y, residual) if y is z else y.sub_(residual)


def _broadcast(vector: Tensor, x: Tensor, block: _Block) -> Tensor:
    return vector[block.channels].view(-1, *[1] * (x.ndim - 2))
