"""Decode heads that extend mmseg's."""
from .inplace_abn_deeplab_head import InPlaceABNDeepLabHead

__all__ = ['InPlaceABNDeepLabHead']
