"""Hooks: progress, curves, the files of a run, the phase of a failure; InPlace-ABN, memory saving and budgets;
checkpoints that survive a kill, exact resume, a check of validation before training.
"""
from .exact_resume_hook import ExactResumeHook
from .finite_loss_hook import FiniteLossHook
from .inplace_abn_hook import InPlaceABNHook, check_activations, watch_activations
from .memory_budget_hook import MemoryBudgetHook
from .phase_hook import PhaseHook
from .progress_hook import ProgressHook
from .run_report_hook import RunReportHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .sanity_hook import SanityHook
from .save_memory_hook import SaveMemoryHook

__all__ = ['ExactResumeHook', 'FiniteLossHook', 'InPlaceABNHook', 'MemoryBudgetHook', 'PhaseHook', 'ProgressHook',
           'RunReportHook', 'SafeCheckpointHook', 'SanityHook', 'SaveMemoryHook', 'check_activations',
           'watch_activations']
