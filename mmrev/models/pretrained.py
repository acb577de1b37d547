"""Load weights: ``init_cfg=dict(type='mmrev.Pretrained', checkpoint=FILE)``, the initializer in mmrev's configs.

mmengine's ``Pretrained`` needs a checkpoint, and mmengine refuses to merge a dict into ``init_cfg=None``. This one does
nothing while its checkpoint is None, so a config contains the entry, and a child config or
``--cfg-options model.backbone.init_cfg.checkpoint=FILE`` sets this one value.
"""
import os
import re
from typing import Any, Dict, Iterable, List, Optional, Union

import torch
from mmengine.logging import MessageHub, print_log
from mmengine.model import PretrainedInit, is_model_wrapper, update_init_info
from torch import Tensor, nn

from mmrev.checkpoints.loaders import UNREACHABLE, path_in_cache
from mmrev.checkpoints.reading import find_weights, holds_numbers, no_numbers
from mmrev.problems import ProblemError
from mmrev.registry import WEIGHT_INITIALIZERS

InitCfg = Union[dict, List[dict], None]
_OTHER_SHAPE = re.compile(r'size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)')


@WEIGHT_INITIALIZERS.register_module(name='Pretrained')
class Pretrained:
    """Initialize the parts of a module with their own defaults, then load the weights of a checkpoint, if given.

    Args:
        checkpoint: Path, ``http(s)://`` address, ``mmrev://NAME``, or anything else that mmengine loads; None loads
            nothing.
        prefix: Prefix of the module's names in a checkpoint of a whole model. If no name has it, the checkpoint is
            treated as one of the module itself.
        map_location: See `torch.load`.

    Raises:
        ProblemError: When called, if the checkpoint has no parameter of the module, or most in another shape.
    """

    def __init__(self, checkpoint: Optional[str] = None, prefix: Optional[str] = None, map_location: Any = 'cpu'):
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.map_location = map_location

    def __call__(self, module: nn.Module) -> None:
        if self.checkpoint is None:
            config = MessageHub.get_current_instance().get_info('cfg', '')  # of the run, as text
            if self.prefix is not None and not re.search(r"^load_from ?= ?['\"]", config, re.MULTILINE):
                print_log(f'{type(module).__name__} starts from random weights, unless model.init_cfg or '
                          f'resume names others; for published ones: --cfg-options '
                          f'model.{self.prefix}init_cfg.checkpoint=FILE, or mmrev://NAME', logger='current')
            return
        content = self._read(self.checkpoint)
        # BaseModule.init_weights calls all initializers but its own `Pretrained` before those of the children, which
        # would overwrite what is loaded here. It skips a child that has been initialized.
        for child in module.children():
            child = child.module if is_model_wrapper(child) and not hasattr(child, 'init_weights') else child
            if hasattr(child, 'init_weights') and not getattr(child, 'is_init', False):
                child.init_weights()
                child.is_init = True
        print_log(load_weights(module, content, self.checkpoint, self.prefix), logger='current')
        if hasattr(module, '_params_init_info'):  # mmengine's record of initializations
            update_init_info(module, init_info=f'Pretrained: load from {self.checkpoint}')

    def _read(self, checkpoint: str) -> Any:
        from mmengine.runner.checkpoint import CheckpointLoader
        try:
            return CheckpointLoader.load_checkpoint(checkpoint, map_location=self.map_location, logger='current')
        except Exception as error:  # of any backend; a damaged download raises what damaged bytes raise
            if isinstance(error, ProblemError) or '://' not in checkpoint:
                raise
            cached = path_in_cache(checkpoint)
            raise ProblemError(
                f'`{checkpoint}` could not be loaded: {type(error).__name__}: {error}',
                f'Remove {cached}, which may be incomplete, and try again' if os.path.exists(cached) else
                UNREACHABLE) from error


_KINDS = ('mmrev.Pretrained', Pretrained, 'Pretrained', PretrainedInit)  # initializers that load weights


def initialization(init_cfg: InitCfg, default: Iterable[dict]) -> List[dict]:
    """The ``init_cfg`` of a backbone: `default`, then the given weights.

    Args:
        init_cfg: As given to the backbone. An entry of ours may omit its type and its prefix. One of mmengine's
            ``Pretrained``, which says nothing if no weight fits, becomes one of ours.
        default: How the backbone is initialized otherwise.
    """
    init_cfg = init_cfg or {}
    if isinstance(init_cfg, dict) and 'type' not in init_cfg:
        init_cfg = dict(init_cfg, type='mmrev.Pretrained')
    entries = [{'prefix': 'backbone.', **entry, 'type': 'mmrev.Pretrained'} if entry.get('type') in _KINDS else entry
               for entry in (init_cfg if isinstance(init_cfg, list) else [init_cfg])]
    return [*default, *entries] if [entry.get('type') for entry in entries] == ['mmrev.Pretrained'] else entries


def starts_from_weights(init_cfg: InitCfg) -> bool:
    """Whether an ``init_cfg`` names a checkpoint, with the initializer of mmengine or mmrev."""
    entries = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg or {}]
    return any(entry.get('type', _KINDS[0]) in _KINDS and entry.get('checkpoint') is not None for entry in entries)


def load_weights(module: nn.Module, content: Any, source: str, prefix: Optional[str] = None) -> str:
    """Load the weights of a module from a checkpoint.

    Args:
        module: The module.
        content: Content of the checkpoint: a state dict, or a dict with one as ``state_dict``.
        source: Path or address of the checkpoint.
        prefix: See `Pretrained`.

    Returns:
        One line with the number of loaded tensors, and those that are missing or unused.

    Raises:
        ProblemError: If it has no parameter of the module, most in another shape, or one that is no real number.
    """
    kind = type(module).__name__
    weights = _tensors(content)
    if not weights:
        raise ProblemError(f'`{source}` holds no weights: there is no tensor in its state dict',
                              f'Give a checkpoint of {kind}')
    if prefix and any(name.startswith(prefix) for name in weights):
        weights = {name[len(prefix):]: value for name, value in weights.items() if name.startswith(prefix)}
    incompatible, other_shape = [], {}
    handle = module.register_load_state_dict_post_hook(lambda _, keys: incompatible.append(keys))
    try:
        module.load_state_dict(weights, strict=False)  # copies all that fits before it raises
    except RuntimeError as error:
        other_shape = {name: (there, here) for name, there, here in _OTHER_SHAPE.findall(str(error))}
        if not other_shape:
            raise
    finally:
        handle.remove()
    missing, unexpected = (set(keys) for keys in incompatible[0])
    parameters = {name for name, _ in module.named_parameters()}
    loaded = parameters - missing - set(other_shape)
    if other_shape and len(loaded) < len(parameters & set(other_shape)):
        name, (there, here) = next(iter(other_shape.items()))
        raise ProblemError(f'`{source}` is of another {kind}: `{name}` is of shape [{there.strip("[]")}] there, and '
                              f'of shape [{here.strip("[]")}] in this config', f'Give a checkpoint of this {kind}')
    if not loaded:
        raise ProblemError(f'`{source}` holds no weight of this {kind}: its names are {_short(weights)}',
                              f'Give a checkpoint of {kind}; `mmrev convert` converts published ones')
    state = module.state_dict()
    for name in state:
        if name in weights and not holds_numbers(weights[name], state[name]):
            raise no_numbers(source, name, weights[name])
    own = [name for name in state if not name.endswith('num_batches_tracked')]
    lost = [name for name in own if name in missing or name in other_shape]
    said = f'Loaded {len(own) - len(lost)} of the {len(own)} tensors of {kind} from {source}'
    parts = dict(missing=[name for name in lost if name in missing], left_over=sorted(unexpected))
    parts['of another shape'] = list(other_shape)
    return said + ''.join(f'; {part.replace("_", " ")}: {_short(names)}' for part, names in parts.items() if names)


def _tensors(content: Any) -> Dict[str, Tensor]:
    """The tensors of a checkpoint, without the prefix of a model that was wrapped for several processes."""
    weights = find_weights(content, lambda name: True) or {}
    return {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}


def _short(names: Iterable[str]) -> str:
    names = list(names)
    return ', '.join(names[:3]) + f' and {len(names) - 3} more' * (len(names) > 3)
