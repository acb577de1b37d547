"""Facts about a network that need no data: its operations, counted. Needs torch alone."""
from .module_stack import ModuleStack
from .operations import Operations, count_operations

__all__ = ['ModuleStack', 'Operations', 'count_operations']
