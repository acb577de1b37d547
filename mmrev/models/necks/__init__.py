"""Necks that the hosts lack, or that keep less for the backward than theirs."""
from .hrfpn import HRFPN
from .revbifpn_neck import RevBiFPNNeck

__all__ = ['HRFPN', 'RevBiFPNNeck']
