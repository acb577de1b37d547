"""Optimizer wrappers of mmrev. The import registers mmengine's as well."""
import mmengine.optim  # noqa: F401  (mmengine imports the location of the first registry that is asked, and no other)

from .bfloat16_optim_wrapper import BFloat16OptimWrapper

__all__ = ['BFloat16OptimWrapper']
