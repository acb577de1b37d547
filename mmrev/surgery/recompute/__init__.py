"""Cheap recomputation: autograd stores less of a forward, and the backward is the same.

The outputs of norms, activations and concatenations are cheap to compute from tensors that are stored anyway. Autograd
stores a recipe in their place: :class:`Recorder` sees each torch function that a network calls, and each tensor that an
operator saves. It needs no knowledge of modules, and no value of the forward changes.
"""
from . import activations, norms, pools, products  # noqa: F401  (they register their functions in the table)
from .recorder import Recorder
from .table import TABLE
from .tally import Tally

__all__ = ['Recorder', 'TABLE', 'Tally']
