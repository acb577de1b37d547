"""Necks that the hosts lack, or that keep less for the backward than theirs."""
from .revbifpn_neck import RevBiFPNNeck

__all__ = ['RevBiFPNNeck']
