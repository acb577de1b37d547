"""InPlace-ABN (Rota Bulò et al. 2018, arXiv:1712.02616) without a compiler and without its in-place hazards.

A batch normalization followed by an activation stores two tensors for backward, the input of the one and the output of
the other. The next convolution stores the second anyway; the first follows from it, because the activation and the
affine map can be inverted. So these layers store only their output: half the memory of a convolutional network. They
never write to their input.

The functional forms are here: ``from mmrev.layers.inplace_abn import abn, inplace_abn, inplace_abn_sync``
(``mmrev.layers.inplace_abn`` is this package).
"""
from .batch_norm_act import BatchNormAct
from .functional import abn, inplace_abn, inplace_abn_sync
from .modules import ABN, InPlaceABN, InPlaceABNSync

__all__ = ['ABN', 'BatchNormAct', 'InPlaceABN', 'InPlaceABNSync', 'abn', 'inplace_abn', 'inplace_abn_sync']
