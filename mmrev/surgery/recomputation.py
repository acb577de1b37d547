"""Less memory for existing models by recomputation in backward."""
import sys
import threading
import warnings
from collections import Counter
from difflib import get_close_matches
from functools import partial
from typing import Any, List, Optional, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from mmrev import compat
from mmrev.layers.fused.guard import is_staged

from .recompute import TABLE, Recorder, Tally

LEVELS = ('cheap', 'blocks')
MIB = 2**20


class MemoryReport:
    """The result of :func:`save_memory`. The first forward that autograd records fills in the figures.

    Attributes:
        images: Batch size of the first forward; ``None`` before it.
        plain: Bytes that autograd would have stored for backward, without parameters.
        kept: Bytes that autograd stored.
        by_function: ``(plain, kept)`` of each function of torch, in descending order of ``kept``.
    """

    def __init__(self, handles: List[RemovableHandle]):
        self.images: Optional[int] = None
        self.plain = self.kept = 0
        self.by_function: dict = {}
        self._handles = handles

    def remove(self) -> None:
        """Undo this call of :func:`save_memory`; what an earlier call added stays."""
        for handle in self._handles:
            handle.remove()

    def __str__(self) -> str:
        if self.images is None:
            return 'nothing has been recorded yet: run a forward in training'
        plain, kept = (total / MIB / self.images for total in (self.plain, self.kept))
        return f'kept {plain:.1f} → {kept:.1f} MiB per image'

    def _close(self, tally: Tally, args: Any) -> None:
        tally.close()
        self.plain, self.kept, self.images = sum(tally.plain.values()), sum(tally.kept.values()), _batch_size(args)
        self.by_function = {name: (tally.plain[name], tally.kept[name])
                            for name in sorted({*tally.plain, *tally.kept}, key=lambda name: -tally.kept[name])}


def save_memory(model: nn.Module, level: str = 'cheap', modules: Optional[Sequence[str]] = None,
                plain: Sequence[str] = (), cheap: Sequence[str] = ()) -> MemoryReport:
    """Make autograd store less of a model's forward. Outputs and gradients stay the same.

    The backward recomputes the outputs of norms, activations, concatenations, poolings and similar functions if they
    are cheap to compute from tensors that are stored anyway. Convolutions, matrix products and attention are not
    recomputed. The model keeps its modules, parameters and state dict. It gets hooks, so call this before
    ``torch.compile``; compiled parts are not changed.

    Args:
        model: The model. Its forward is observed, and that of a child which is called alone.
        level: ``'cheap'``, or ``'blocks'``, which stores only the output of each block and recomputes its convolutions
            and matrix products as well.
        modules: Names of the blocks; by default those of :func:`find_blocks`.
        plain: Names of modules within which nothing is recomputed; ``''`` is the model.
        cheap: Names of modules inside ``plain`` within which cheap functions are recomputed; of nested modules, the
            innermost is decisive.

    Returns:
        A report that the first forward fills in.

    Raises:
        RuntimeError: If PyTorch is older than 2.5.
        ValueError: If the level is unknown, if the model has no module of a name, or for names with ``level='cheap'``.
        TypeError: If ``modules`` is a string.

    Example:
        >>> report = mmrev.save_memory(model)
        >>> model(images).sum().backward()
        >>> print(report)
        kept 73.2 → 26.3 MiB per image
    """
    if not compat.can_save_memory:
        raise RuntimeError(f'save_memory needs PyTorch 2.5 or later, got {torch.__version__}; update it, or use '
                           f'activation checkpointing (`with_cp=True` in many configs)')
    check_level(level, modules)
    if modules is not None:
        blocks = _named(model, modules, 'modules')
    else:
        blocks = find_blocks(model) if level == 'blocks' else []
        if level == 'blocks' and not blocks:
            warnings.warn(f"`level='blocks'` finds no blocks in {type(model).__name__} and does the same as 'cheap'; "
                          f'name them by `modules`', stacklevel=2)
    handles = []
    for module in {model, *model.children()}:
        if not isinstance(module, torch.jit.ScriptModule) and _start not in module._forward_pre_hooks.values():
            handles += [module.register_forward_pre_hook(_start, prepend=True),
                        module.register_forward_hook(_stop, always_call=True, with_kwargs=True)]
    for block in blocks:
        if _enter not in block._forward_pre_hooks.values():
            handles += [block.register_forward_pre_hook(_enter),
                        block.register_forward_hook(_leave, prepend=True, always_call=True)]
    for argument, names, pauses in (('plain', plain, True), ('cheap', cheap, False)):
        for module in _named(model, names, argument):
            handles += [module.register_forward_pre_hook(partial(_pause, pauses)),
                        module.register_forward_hook(_resume, prepend=True, always_call=True)]
    report = _REPORTS[model] = MemoryReport(handles)
    return report


def check_level(level: str, modules: Optional[Sequence[str]]) -> None:
    """Check arguments of :func:`save_memory` that need no model.

    Raises:
        ValueError: If the level is unknown, or for names with ``level='cheap'``.
        TypeError: If ``modules`` is a string.
    """
    if level not in LEVELS:
        raise ValueError(f'`level` must be one of {", ".join(map(repr, LEVELS))}; got {level!r}')
    if level == 'cheap' and modules is not None:
        raise ValueError("`modules` names the blocks of `level='blocks'`; got `level='cheap'`")
    if isinstance(modules, str):
        raise TypeError(f'`modules` must be a list of names; got the string {modules!r}')


def find_blocks(model: nn.Module) -> List[nn.Module]:
    """Find the innermost modules with layers and a norm that are in a list or next to others of their class.

    Blocks have at least two layers with weights. If no such module has a norm, those without one are returned.

    Args:
        model: The model.
    """
    return _innermost(model, needs_norm=True) or _innermost(model, needs_norm=False)


def _innermost(model: nn.Module, needs_norm: bool) -> List[nn.Module]:
    found: List[nn.Module] = []
    for parent in reversed(list(model.modules())):  # parents come before their children
        children = [child for child in parent.children() if _is_block(child, needs_norm)]
        classes = Counter(map(type, children))
        for child in children:
            listed = isinstance(parent, (nn.Sequential, nn.ModuleList)) or classes[type(child)] > 1
            if listed and not any(m in found for m in child.modules()):
                found.append(child)
    return found


def _is_block(module: nn.Module, needs_norm: bool) -> bool:
    if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
        return False
    ndims = [weight.ndim for m in module.modules() for weight in [_weight(m)] if isinstance(weight, Tensor)]
    return sum(ndim > 1 for ndim in ndims) > 1 and (1 in ndims or not needs_norm)


def _weight(module: nn.Module) -> Any:
    if nn.utils.parametrize.is_parametrized(module, 'weight'):  # to read it would update spectral norm
        return next(module.parametrizations.weight.parameters())
    return getattr(module, 'weight', None)


def _named(model: nn.Module, names: Sequence[str], argument: str) -> List[nn.Module]:
    known = dict(model.named_modules())
    missing = [name for name in names if name not in known]
    if missing:
        near = [name for name in known if name.rpartition('.')[2] == missing[0].rpartition('.')[2]]
        near = near or get_close_matches(missing[0], known)
        raise ValueError(f'`{argument}`: the model has no {", ".join(map(repr, missing))}; it has '
                         f'{", ".join(map(repr, (near or [name for name in known if name])[:6]))}, ...')
    return [known[name] for name in names]


class _Call(threading.local):
    """The forward that this thread is running."""
    module: Optional[nn.Module] = None
    frame: Any = None  # of Python, in which it runs
    depth = 0  # calls of the module by itself
    recorder: Optional[Recorder] = None


_REPORTS = WeakIdKeyDictionary()  # by model, until the reports are filled
_CALL = _Call()


def _start(module: nn.Module, args: Any) -> None:
    """Start recording, unless an enclosing forward records."""
    if compat.is_compiling():
        return
    if _CALL.module is not None and not _is_running(_CALL.frame):  # an interrupt in it skipped the hooks
        _end()
    if _CALL.module is module:
        _CALL.depth += 1
    if _CALL.module is not None or not torch.is_grad_enabled() or is_staged():
        return
    if not torch._C._autograd._saved_tensors_hooks_is_enabled() or (
            compat.saved_tensor_hooks() is not None):
        return  # other saved-tensor hooks are active, such as those of checkpointing
    report = _REPORTS.get(module)
    tally = None if report is None else Tally(module.parameters())
    _CALL.module, _CALL.frame, _CALL.recorder = module, sys._getframe(1), Recorder(TABLE, tally)
    _CALL.recorder.__enter__()


def _stop(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
    if compat.is_compiling() or _CALL.module is not module:
        return
    if _CALL.depth:
        _CALL.depth -= 1
        return
    tally = _CALL.recorder.tally
    _end()
    if tally is not None and output is not None:
        report = _REPORTS.pop(module, None)
        if report is not None:
            report._close(tally, [*args, *kwargs.values()])


def _end() -> None:
    recorder = _CALL.recorder
    _CALL.module = _CALL.frame = _CALL.recorder = None
    _CALL.depth = 0
    recorder.__exit__(None, None, None)


def _is_running(frame: Any) -> bool:
    """Whether this frame is among those of the current call."""
    current: Any = sys._getframe()
    while current is not None and current is not frame:
        current = current.f_back
    return current is not None


def _batch_size(args: Sequence[Any]) -> int:
    first = args[0] if args else None
    while isinstance(first, dict):
        first = next(iter(first.values()), None)
    if isinstance(first, Tensor) and not first.ndim:  # a diffusion's time, before the images
        return _batch_size(args[1:])
    return max(1, len(first)) if isinstance(first, (Tensor, list, tuple)) else 1


def _enter(module: nn.Module, args: Any) -> None:
    if not compat.is_compiling() and _CALL.recorder is not None:
        _CALL.recorder.blocks += 1


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    if compat.is_compiling() or _CALL.recorder is None:
        return
    _CALL.recorder.blocks = max(0, _CALL.recorder.blocks - 1)
    if not _CALL.recorder.blocks:
        tree_map_only(Tensor, _CALL.recorder.keep, output)


def _pause(pauses: bool, module: nn.Module, args: Any) -> None:
    if not compat.is_compiling() and _CALL.recorder is not None:
        _CALL.recorder.paused.append(pauses)


def _resume(module: nn.Module, args: Any, output: Any) -> None:
    if not compat.is_compiling() and _CALL.recorder is not None and _CALL.recorder.paused:
        _CALL.recorder.paused.pop()
