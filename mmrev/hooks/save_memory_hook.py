"""Less memory for any model of the hosts, by config alone."""
from typing import Optional, Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmrev.registry import HOOKS
from mmrev.surgery.recomputation import MemoryReport, save_memory


@HOOKS.register_module()
class SaveMemoryHook(Hook):
    """Have autograd keep less of the model's forward, with the same function, gradients and checkpoints.

    The first iteration logs what is kept for backward and what would have been, with a warning where that is little
    less.

    Args:
        level: ``'cheap'`` or ``'blocks'``, see :func:`mmrev.save_memory`.
        modules: Names of the blocks, if not those that are found.

    Raises:
        ValueError: When training starts, as :func:`mmrev.save_memory` does.

    Example:
        >>> custom_hooks = [dict(type='mmrev.SaveMemoryHook')]
    """

    # Of what autograd would have kept, from which on the log warns.
    LITTLE = 0.9

    def __init__(self, level: str = 'cheap', modules: Optional[Sequence[str]] = None):
        self.level = level
        self.modules = modules
        self.report: Optional[MemoryReport] = None
        self._logged = False

    def before_train(self, runner) -> None:
        """Prepare the model as the other hooks and the wrapper have left it."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.report = save_memory(model, self.level, self.modules)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Log what the first iteration kept."""
        if self._logged:
            return
        self._logged = True
        line = f'SaveMemoryHook: {self.report}'
        if self.report.images is None:
            runner.logger.warning('SaveMemoryHook: no forward was recorded; was the model compiled, or is all of it '
                                  'under activation checkpointing?')
        elif self.report.kept > self.LITTLE * self.report.plain:
            most = ', '.join(list(self.report.by_function)[:3])
            runner.logger.warning(f"{line}; little of it is cheap to compute again, most is kept by {most}. "
                                  "`level='blocks'` computes whole blocks again")
        else:
            runner.logger.info(line)
