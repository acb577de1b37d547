"""Hooks of a run: a sign of life, the curves, and where everything lies."""
from .progress_hook import ProgressHook
from .run_report_hook import RunReportHook

__all__ = ['ProgressHook', 'RunReportHook']
