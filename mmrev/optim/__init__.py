"""Optimizer wrappers of mmrev and their constructor. The import registers mmengine's as well."""
import mmengine.optim  # noqa: F401  (mmengine imports the location of the first registry only)

from .bfloat16_optim_wrapper import BFloat16OptimWrapper
from .optim_in_backward_wrapper import OptimInBackwardWrapper
from .optim_wrapper_constructor import OptimWrapperConstructor

__all__ = ['BFloat16OptimWrapper', 'OptimInBackwardWrapper', 'OptimWrapperConstructor']
