"""Assertions for tests of reversible modules. Requires only PyTorch."""
from .assertions import assert_invertible, assert_same_gradients, set_reversible
from .memory import PeakMemory, bytes_per_sample

__all__ = ['PeakMemory', 'assert_invertible', 'assert_same_gradients', 'bytes_per_sample', 'set_reversible']
