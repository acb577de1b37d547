"""Parameter-wise options for norms that include their activation."""
from typing import List, Optional, Union

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmrev.layers import ABN
from mmrev.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor that also treats :class:`mmrev.layers.ABN` and its subclasses as norms.

    mmengine applies ``norm_decay_mult`` to the four classes of norms that it knows, and ``bias_lr_mult`` to biases of
    all other modules. Without this constructor, ``norm_decay_mult`` has no effect on an activated norm. Norms that
    :class:`mmrev.hooks.InPlaceABNHook` converts do not need it: they are batch norms when the optimizer is built.

    Example:
        >>> optim_wrapper = dict(constructor='mmrev.OptimWrapperConstructor', paramwise_cfg=dict(norm_decay_mult=0.))
    """

    def add_params(self, params: List[dict], module: nn.Module, prefix: str = '',
                   is_dcn_module: Optional[Union[int, float]] = None) -> None:
        """Add the parameters of ``module``, and of all within it, to ``params``."""
        if isinstance(module, ABN):
            norm = nn.BatchNorm2d(module.num_features, affine=False, track_running_stats=False)
            norm._parameters = module._parameters
            module = norm
        super().add_params(params, module, prefix, is_dcn_module)
