"""Facts about a network that need no data: operations, channels, running modules. Needs torch alone."""
from .module_stack import ModuleStack
from .operations import Operations, count_operations

__all__ = ['ModuleStack', 'Operations', 'count_operations']
