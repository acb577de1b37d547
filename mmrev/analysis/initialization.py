"""Check what the ``init_cfg`` of a model's modules name, and which layers are frozen."""
from typing import Iterator, List, Tuple

from torch import nn

from mmrev.problems import closest


def check_layers(model: nn.Module) -> None:
    """Require that every ``layer`` of an ``init_cfg`` names a class; mmengine ignores the others.

    Args:
        model: A model whose modules have been imported.

    Raises:
        ValueError: If there is no module class of that name.
    """
    known = {kind.__name__ for kind in _subclasses(nn.Module)}
    for name, module in model.named_modules():
        given = getattr(module, 'init_cfg', None) or ()
        for entry in given if isinstance(given, (list, tuple)) else [given]:
            layers = entry.get('layer') if isinstance(entry, dict) else None
            for layer in [layers] if isinstance(layers, str) else layers or ():
                if layer not in known:
                    raise ValueError(f'init_cfg of {f"`{name}`" if name else type(model).__name__}: there is no layer '
                                     f'`{layer}`. {closest(str(layer), known)}'.rstrip())


def frozen_layers(model: nn.Module, besides: Tuple[type, ...] = ()) -> List[str]:
    """Names of the layers whose weights are all frozen, outside modules of the types `besides`."""
    found = []
    left_out = tuple(f'{name}.' for name, module in model.named_modules() if isinstance(module, besides))
    for name, module in model.named_modules():
        weight = getattr(module, 'weight', None)
        trained = any(p.requires_grad for p in module.parameters())
        if isinstance(weight, nn.Parameter) and not trained and not name.startswith(left_out):
            found.append(name)
    return found


def _subclasses(kind: type) -> Iterator[type]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
