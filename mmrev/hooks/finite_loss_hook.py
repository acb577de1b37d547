"""Stop a training whose loss is not finite before useless weights replace its checkpoints."""
import math
from typing import Any, Dict, Optional

from mmengine.hooks import Hook

from mmrev.problems import ProblemError
from mmrev.registry import HOOKS


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop after several consecutive iterations without a finite loss, and write no checkpoint in the meantime.

    A loss that is 0 in the first iteration, from which nothing is learned, is a warning in the log.

    `mmrev train` adds this hook. It reads the losses that mmengine has already logged, so it causes no synchronization
    with the device.

    Args:
        patience: Number of consecutive iterations without a finite loss that end the run.

    Raises:
        ProblemError: If the run is stopped; the message names the first loss that was not finite, and the iteration.
            If `patience` is below 1.
    """

    def __init__(self, patience: int = 20):
        if patience < 1:
            raise ProblemError(f'`patience` of FiniteLossHook is {patience}', 'Set it to a number of iterations from 1')
        self.patience = patience
        self._in_a_row = 0
        self._first = ''
        self._from_the_start = False

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs: Optional[Dict[str, Any]] = None) -> None:
        """Count the consecutive iterations without a finite loss."""
        losses = {name: runner.message_hub.get_scalar(f'train/{name}').current()
                  for name in outputs or {} if 'loss' in name}
        if runner.iter == 0 and losses.get('loss') == 0:
            runner.logger.warning(f'`loss` is 0 in the first iteration{_images(data_batch)}: look at class_weight, '
                                  'loss_weight and ignore_index of the heads, and at the annotations')
        if all(map(math.isfinite, losses.values())):
            self._in_a_row = 0
            return
        if not self._in_a_row:
            name = next(name for name in sorted(losses, key='loss'.__eq__) if not math.isfinite(losses[name]))
            self._first = f'`{name}` is {losses[name]} since iteration {runner.iter + 1}{_images(data_batch)}'
            self._from_the_start = runner.iter == 0
        self._in_a_row += 1
        if self._in_a_row >= self.patience:
            self._stop(f'{self.patience} iterations in a row')

    def before_save_checkpoint(self, runner, checkpoint: Dict[str, Any]) -> None:
        """Stop before a checkpoint with useless weights is written."""
        if self._in_a_row:
            self._stop('a checkpoint would hold useless weights')

    def _stop(self, why: str) -> None:
        fix = 'Look at' if self._from_the_start else 'Lower the learning rate, warm it up, clip gradients; or look at'
        raise ProblemError(f'{self._first}: {why}', f'{fix} these images and their annotations (mmrev check CONFIG '
                           '--data); earlier checkpoints are kept. custom_hooks=[dict(type=\'mmrev.FiniteLossHook\', '
                           'patience=100)] waits longer', 1)


def _images(batch: Any, most: int = 3) -> str:
    """The files of a batch, as far as it names them."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    files = [sample.get('img_path') for sample in samples if hasattr(sample, 'get')] if isinstance(
        samples, (list, tuple)) else []
    named = [f'`{file}`' for file in files if isinstance(file, str)]
    return f' ({", ".join(named[:most])}{", ..." * (len(named) > most)})' if named else ''
