"""Hooks of a run: a sign of life, the curves, where everything lies, what failed, and InPlace-ABN for any model."""
from .inplace_abn_hook import InPlaceABNHook, check_activations, watch_activations
from .phase_hook import PhaseHook
from .progress_hook import ProgressHook
from .run_report_hook import RunReportHook

__all__ = ['InPlaceABNHook', 'PhaseHook', 'ProgressHook', 'RunReportHook', 'check_activations', 'watch_activations']
