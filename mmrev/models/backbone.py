"""What every backbone shares: arch, levels, frozen stages, frozen statistics, initialization."""
from abc import abstractmethod
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .pretrained import InitCfg, initialization, starts_from_weights


class Backbone(BaseModule):
    """Base of all backbones.

    A subclass builds its modules, ends its constructor with :meth:`_freeze_stages`, and returns from :meth:`_stages`
    the stages that ``frozen_stages`` counts. CONTRIBUTING.md has an example.

    Args:
        num_levels: Number of levels that ``out_indices`` can select.
        out_indices: Levels that the forward returns, one number or several in ascending order. They count from 0, or
            backwards from -1, the last.
        frozen_stages: As in mmdet: -1 freezes nothing, 0 the stem, ``k`` also stages 1 ... ``k``. Frozen modules get no
            gradient and stay in eval mode.
        norm_eval: Freeze the statistics of batch norms in training; None freezes them if ``init_cfg`` names weights.
        init_cfg: Initialization: weights to load, or a replacement for ``default_init``.

    Attributes:
        arch_zoo: Class attribute: architectures by name.
        arch_defaults: Class attribute: keys that a dict ``arch`` may leave out.
        default_init: Initialization without ``init_cfg``; other modules keep PyTorch's initialization.
        out_indices: A tuple, counted from 0.
        channels: Channels of the levels that the forward returns; set by the subclass.

    Raises:
        ValueError: If ``out_indices`` or ``frozen_stages`` are out of range.
    """
    arch_zoo: Dict[Any, Any] = {}
    arch_defaults: Dict[str, Any] = {}
    default_init: Sequence[dict] = ()
    channels: Tuple[int, ...]

    def __init__(self, num_levels: int, out_indices: Union[int, Sequence[int]], frozen_stages: int = -1,
                 norm_eval: Optional[bool] = False, init_cfg: InitCfg = None):
        super().__init__(initialization(init_cfg, self.default_init))
        self.out_indices = _ascending(out_indices, num_levels)
        self.frozen_stages = frozen_stages
        self.norm_eval = starts_from_weights(init_cfg) if norm_eval is None else norm_eval

    @classmethod
    def _resolve_arch(cls, arch: Any, argument: str = 'arch') -> Any:
        """The entry of :attr:`arch_zoo` for a name, or a dict with the same keys.

        Raises:
            ValueError: If it is neither.
        """
        found = arch if isinstance(arch, dict) else cls.arch_zoo.get(arch.lower() if isinstance(arch, str) else arch)
        example = next(iter(cls.arch_zoo.values()))
        if not isinstance(found, type(example)):
            or_dict = ' or a dict' if isinstance(example, dict) else ''
            raise ValueError(f'`{argument}` must be one of {list(cls.arch_zoo)}{or_dict}, got {arch!r}')
        if not isinstance(example, dict):
            return found
        required = set(example) - set(cls.arch_defaults)
        if not required <= set(found) <= required | set(cls.arch_defaults):
            may = f' and may have {sorted(cls.arch_defaults)}' if cls.arch_defaults else ''
            raise ValueError(f'a dict `arch` must have the keys {sorted(required)}{may}, got {sorted(found)}')
        return {**cls.arch_defaults, **found}

    @abstractmethod
    def _stages(self) -> List[List[Union[nn.Module, Tensor]]]:
        """Modules and parameters of the stem, then those of each stage."""

    def _freeze_stages(self) -> None:
        stages = self._stages()
        if not -1 <= self.frozen_stages < len(stages):
            raise ValueError(f'`frozen_stages` must lie in [-1, {len(stages) - 1}], got {self.frozen_stages}')
        for part in (part for stage in stages[:self.frozen_stages + 1] for part in stage):
            part.requires_grad_(False)
            if isinstance(part, nn.Module):
                part.eval()

    def train(self, mode: bool = True) -> 'Backbone':
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Initialize once: later calls and loaded weights do not run :meth:`_init_parameters` again."""
        begun = self.is_init
        super().init_weights()
        if not begun and not starts_from_weights(self.init_cfg):
            self._init_parameters()

    def _init_parameters(self) -> None:
        """Initialize parameters that ``default_init`` cannot, such as a position embedding."""


def _ascending(out_indices: Any, num_levels: int) -> Tuple[int, ...]:
    given = (out_indices, ) if isinstance(out_indices, int) else out_indices
    if not isinstance(given, (tuple, list)) or not given or not all(
            isinstance(i, int) and -num_levels <= i < num_levels for i in given):
        raise ValueError(f'`out_indices` must lie in [{-num_levels}, {num_levels}), got {out_indices!r}')
    indices = tuple(i % num_levels for i in given)
    if list(indices) != sorted(set(indices)):
        raise ValueError(f'`out_indices` must ascend, got {out_indices!r}')
    return indices


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise ``ValueError`` if ``value`` is not one of the choices."""
    if value not in choices:
        raise ValueError(f'`{name}` must be one of {tuple(choices)}, got {value!r}')
