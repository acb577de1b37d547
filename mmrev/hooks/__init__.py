"""Hooks of a run: a sign of life, the curves, where everything lies, and InPlace-ABN for any model."""
from .inplace_abn_hook import InPlaceABNHook, check_activations, watch_activations
from .progress_hook import ProgressHook
from .run_report_hook import RunReportHook

__all__ = ['InPlaceABNHook', 'ProgressHook', 'RunReportHook', 'check_activations', 'watch_activations']
