"""Changes to existing models: InPlace-ABN instead of batch norms, recomputation in backward. Requires only PyTorch."""
from .convert import Conversion, activated_twice, convert_batchnorm, to_batchnorm
from .recomputation import MemoryReport, save_memory
from .sync import convert_sync, revert_sync

__all__ = ['Conversion', 'MemoryReport', 'activated_twice', 'convert_batchnorm', 'convert_sync', 'revert_sync',
           'save_memory', 'to_batchnorm']
