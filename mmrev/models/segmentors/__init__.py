"""Segmentors that extend mmseg's."""
from .multi_scale import MultiScaleEncoderDecoder, predict_fused

__all__ = ['MultiScaleEncoderDecoder', 'predict_fused']
