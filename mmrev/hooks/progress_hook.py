"""Log the progress and the time left if mmengine's logger has been silent for a while."""
import datetime
import time

from mmengine.hooks import Hook, LoggerHook

from mmrev.registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """Log the progress and the time left if nothing has been logged for a while.

    mmengine's `LoggerHook` logs after a number of iterations, which takes minutes on a slow machine, and never happens
    in a short epoch. This hook uses the clock instead. It logs values of its own process only: the clocks of processes
    differ, so a collective would deadlock.

    Args:
        seconds: Maximum time without output in seconds.
    """

    priority = 'VERY_LOW'  # after IterTimerHook, which estimates the time left, and after LoggerHook

    def __init__(self, seconds: float = 10.):
        self.seconds = seconds
        self._last = time.monotonic()

    def before_run(self, runner) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode: str = 'train') -> None:
        now = time.monotonic()
        if any(isinstance(hook, LoggerHook) and hook.every_n_inner_iters(batch_idx, hook.interval)
               for hook in runner.hooks):
            self._last = now
        if now - self._last < self.seconds:
            return
        self._last = now
        left = datetime.timedelta(seconds=int(runner.message_hub.get_info('eta', 0)))
        if mode == 'train':
            loss = runner.message_hub.get_scalar('train/loss').current()
            runner.logger.info(f'Iter(train) [{runner.iter + 1}/{runner.max_iters}]  eta: {left}  loss: {loss:.4f}')
        else:
            batches = len(runner.val_dataloader if mode == 'val' else runner.test_dataloader)
            runner.logger.info(f'Iter({mode}) [{batch_idx + 1}/{batches}]  eta: {left}')
