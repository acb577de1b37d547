"""Activated batch norms under the names that a ``norm_cfg`` gives them, such as ``dict(type='mmrev.InPlaceABN')``.

They include their activation, so modules that build them take ``act_cfg=None``.
"""
from mmrev.layers import ABN, BatchNormAct, InPlaceABN, InPlaceABNSync
from mmrev.registry import MODELS

for norm in (ABN, BatchNormAct, InPlaceABN, InPlaceABNSync):
    MODELS.register_module(module=norm)
