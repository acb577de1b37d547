"""Analysis of a network without data: operations, channels, running modules. Requires only PyTorch."""
from .module_stack import ModuleStack
from .operations import Operations, count_operations

__all__ = ['ModuleStack', 'Operations', 'count_operations']
