"""Cheap recomputation: autograd keeps less of a forward, and backward computes the same.

The output of a norm, of an activation, of a concatenation follows by few operations from tensors that are kept anyway.
Here autograd keeps the recipe instead: :class:`Recorder` sees each function of torch that a network calls, and each
tensor that an operator saves. No module needs to be known, and no value of the forward changes.
"""
from . import activations, norms, pools, products  # noqa: F401  (they enter their functions in the table)
from .recorder import Recorder
from .table import TABLE
from .tally import Tally

__all__ = ['Recorder', 'TABLE', 'Tally']
