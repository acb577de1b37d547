"""Necks that the hosts lack, or that store less for backward than theirs."""
from .hrfpn import HRFPN
from .revbifpn_neck import RevBiFPNNeck
from .simple_feature_pyramid import SimpleFeaturePyramid

__all__ = ['HRFPN', 'RevBiFPNNeck', 'SimpleFeaturePyramid']
