"""Hooks of a run: a sign of life, the curves, where everything lies, what failed; InPlace-ABN and less memory."""
from .inplace_abn_hook import InPlaceABNHook, check_activations, watch_activations
from .phase_hook import PhaseHook
from .progress_hook import ProgressHook
from .run_report_hook import RunReportHook
from .save_memory_hook import SaveMemoryHook

__all__ = ['InPlaceABNHook', 'PhaseHook', 'ProgressHook', 'RunReportHook', 'SaveMemoryHook', 'check_activations',
           'watch_activations']
