"""Parameter-wise options for norms that hold their activation."""
from typing import List, Optional, Union

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmrev.layers import ABN
from mmrev.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, to which :class:`mmrev.layers.ABN` and its subclasses are norms too.

    mmengine applies ``norm_decay_mult`` to the four classes of norms that it knows, and ``bias_lr_mult`` to biases
    outside of them. An activated norm is none of these, so ``norm_decay_mult`` passes it by without this constructor.
    What :class:`mmrev.hooks.InPlaceABNHook` converts was a batch norm when the optimizer was built and needs none.

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
