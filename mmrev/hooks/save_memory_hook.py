"""Less memory for any model of mmdet, mmpretrain or mmseg, by a line of the config."""
from typing import Optional, Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmrev.registry import HOOKS
from mmrev.surgery.recomputation import MemoryReport, check_level, save_memory


@HOOKS.register_module()
class SaveMemoryHook(Hook):
    """Make autograd store less of the model's forward. Outputs, gradients and checkpoints stay the same.

    The first iteration logs the bytes that are kept for backward with and without the hook, and a warning if they
    hardly differ.

    Args:
        level: ``'cheap'`` or ``'blocks'``, see :func:`mmrev.save_memory`.
        modules: Names of the blocks; by default they are found automatically.

    Raises:
        ValueError: If the level is unknown, or for names with ``level='cheap'``; for unknown names when training
            starts.
        TypeError: If ``modules`` is a string.

    Example:
        >>> custom_hooks = [dict(type='mmrev.SaveMemoryHook')]
    """

    # Fraction of the bytes of plain autograd above which the hook warns.
    LITTLE = 0.9

    def __init__(self, level: str = 'cheap', modules: Optional[Sequence[str]] = None):
        check_level(level, modules)
        self.level = level
        self.modules = modules
        self.report: Optional[MemoryReport] = None
        self._logged = False

    def before_train(self, runner) -> None:
        """Prepare the model, after all other hooks and the wrapper."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.report = save_memory(model, self.level, self.modules)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Log the bytes that the first iteration kept."""
        if self._logged:
            return
        self._logged = True
        line = f'SaveMemoryHook: {self.report}'
        if self.report.images is None:
            runner.logger.warning('SaveMemoryHook: no forward was recorded; is the model compiled, or all of it '
                                  'under activation checkpointing?')
        elif self.report.kept > self.LITTLE * self.report.plain:
            most = ', '.join(list(self.report.by_function)[:3])
            advice = "; `level='blocks'` recomputes whole blocks" if self.level == 'cheap' else ''
            runner.logger.warning(f'{line}; little of it is recomputed, most is kept by {most}{advice}')
        else:
            runner.logger.info(line)
