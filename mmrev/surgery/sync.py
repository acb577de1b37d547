"""Convert activated batch norms to synchronized ones and back, like ``SyncBatchNorm.convert_sync_batchnorm``."""
from typing import Any, Callable, Dict, Optional, Type

from torch import nn

from mmrev.layers.inplace_abn.modules import ABN, BatchStatistics, InPlaceABN, InPlaceABNSync


def convert_sync(module: nn.Module, group: Any = None) -> nn.Module:
    """Replace every :class:`ABN` and :class:`InPlaceABN` within ``module`` by an :class:`InPlaceABNSync`.

    Parameters, buffers, hooks and training flags remain the same objects. A layer that is used at several places
    remains one layer.

    Args:
        module: Changed in place, unless it is such a layer itself.
        group: Processes to synchronize with; ``None`` for all.

    Returns:
        ``module``, or its replacement.
    """

    def sync(layer: ABN) -> ABN:
        new = _recast(layer, InPlaceABNSync)
        new.group = group
        return new

    return replace(module, ABN, sync)


def revert_sync(module: nn.Module, kind: Type[ABN] = InPlaceABN) -> nn.Module:
    """Replace every :class:`InPlaceABNSync` within ``module`` by a layer of ``kind``; the inverse of `convert_sync`.

    A layer that ``SyncBatchNorm.convert_sync_batchnorm`` synchronized gets back its own kind.
    """

    def revert(layer: ABN) -> ABN:
        new = _recast(layer, kind if isinstance(layer, InPlaceABNSync) else type(layer))
        if not isinstance(layer.statistics, BatchStatistics):
            new.statistics = BatchStatistics(layer.num_features).train(layer.statistics.training)
        return new

    if not (isinstance(kind, type) and issubclass(kind, ABN)) or issubclass(kind, InPlaceABNSync):
        raise ValueError(f'`kind` must be ABN or InPlaceABN; got {kind!r}')
    return replace(module, ABN, revert)


def _recast(layer: ABN, kind: Type[ABN]) -> ABN:
    """A layer of another class with all attributes of this one."""
    new = kind.__new__(kind)
    new.__dict__ = {key: value.copy() if isinstance(value, dict) else value for key, value in layer.__dict__.items()}
    new.__dict__.pop('group', None)
    backend = new.__dict__.pop('backend', 'auto')
    if issubclass(kind, InPlaceABN):
        new.backend = backend
    return new


def replace(module: nn.Module, kind: Type[nn.Module], change: Callable[[nn.Module], nn.Module],
            done: Optional[Dict[nn.Module, nn.Module]] = None) -> nn.Module:
    """Replace each module of a kind within ``module``; return ``module`` or its replacement."""
    done = {} if done is None else done
    if module not in done:
        done[module] = module
        if isinstance(module, kind):
            done[module] = change(module)
        else:
            for name, child in module._modules.items():  # `named_children` skips repeated modules
                if child is not None:
                    module._modules[name] = replace(child, kind, change, done)
    return done[module]
