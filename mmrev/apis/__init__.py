"""What a program of one's own needs around mmengine's `Runner`: loading its checkpoints, several CPU processes."""
from mmrev.checkpoints import allow_mmengine_checkpoints

from .distributed import adopt_launcher, prepare_cpu_processes

__all__ = ['adopt_launcher', 'allow_mmengine_checkpoints', 'prepare_cpu_processes']
