"""Draw the curves of a run at its end, and log where its files are."""
import os.path as osp
from typing import Dict, List, Optional

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook

from mmrev.registry import HOOKS
from mmrev.side_effects import show_warnings

_METRICS = 'mmrev_metrics'  # key in the message hub, hence in checkpoints: name -> [[iteration, value], ...]
Curves = Dict[str, List[List[float]]]


@HOOKS.register_module()
class RunReportHook(Hook):
    """Draw losses and metrics over the iterations, and log the paths of checkpoints, logs and pictures.

    The curves survive ``--resume``: losses and metrics are stored in the message hub, which checkpoints contain.

    Args:
        images: Folder of the images that a test draws; a relative path is inside the log folder of the run.
        predictions: File of the predictions that a test writes.
    """

    priority = 'LOWEST'

    def __init__(self, images: Optional[str] = None, predictions: Optional[str] = None):
        self.images = images
        self.predictions = predictions
        self.trained = False
        self.begun = False  # whether an iteration has been completed

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Record that the run trains."""
        self.trained = True
        self._begin()

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Record that the run has begun."""
        self._begin()

    def _begin(self) -> None:
        self.begun = True
        show_warnings()

    def after_val_epoch(self, runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Store the metrics of a validation, with the iteration."""
        curves: Curves = runner.message_hub.get_info(_METRICS, {})
        step = runner.iter if runner._train_loop is not None else 0
        for name, value in (metrics or {}).items():
            if isinstance(value, (int, float, np.number)):
                curves.setdefault(name, []).append([step, float(value)])
        runner.message_hub.update_info(_METRICS, curves)

    def after_run(self, runner) -> None:
        """Draw the curves and log the paths."""
        if not is_main_process():
            return
        places = {}
        if self.trained:
            places['checkpoints'] = _checkpoints(runner)
        places['log'] = runner.logger.log_file
        if self.trained:
            places['curves'] = osp.join(runner.log_dir, 'curves.png')
            draw_curves(runner.message_hub.get_scalar('train/loss').data[0],
                        runner.message_hub.get_info(_METRICS, {}), runner.iter, places['curves'])
        places['predictions'] = self.predictions
        places['images'] = self.images and osp.join(runner.log_dir, self.images)
        named = [f'{name}: {_shown(place)}' for name, place in places.items() if place]
        runner.logger.info('Done.  ' + '  '.join(named))


def draw_curves(losses: np.ndarray, metrics: Curves, last_iter: int, file: str) -> None:
    """Draw the loss of every iteration and the metrics of every validation into a picture.

    Args:
        losses: Total losses of the last iterations, up to `last_iter`.
        metrics: ``[iteration, value]`` pairs by metric; metrics of a single object size are not drawn.
        last_iter: Number of the last iteration.
        file: Image file to write.
    """
    from matplotlib.figure import Figure  # without pyplot, which has global state and may need a display
    shown = {name: np.array(points) for name, points in metrics.items() if not name.endswith(('_s', '_m', '_l'))}
    figure = Figure(figsize=(11 if shown else 6, 4), layout='constrained')
    axes = figure.subplots(1, 2 if shown else 1, squeeze=False)[0]
    steps = np.arange(last_iter - len(losses), last_iter) + 1
    window = max(1, len(losses) // 25)
    smooth = np.convolve(losses, np.full(window, 1 / window), mode='valid')
    axes[0].plot(steps, losses, color='tab:blue', alpha=.3)
    axes[0].plot(steps[window - 1:], smooth, color='tab:blue', label=f'mean of {window}' if window > 1 else 'loss')
    axes[0].set(title='training loss', xlabel='iteration')
    axes[0].legend()
    for name, points in shown.items():
        axes[1].plot(points[:, 0], points[:, 1], marker='o', label=name)
    if shown:
        axes[1].set(title='validation', xlabel='iteration')
        axes[1].legend(fontsize='small')
    for axis in axes:
        axis.grid(alpha=.3)
    figure.savefig(file, dpi=120)


def _checkpoints(runner) -> str:
    """The last and the best checkpoint, if any."""
    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    last, best = getattr(hook, 'last_ckpt', None), getattr(hook, 'best_ckpt_path', None)
    named = _shown(last) if last else f'none saved in {_shown(runner.work_dir)}'
    return named + (f' (best: {_shown(best)})' if best else '')


def _shown(path: str) -> str:
    """The shorter of the relative and the absolute path."""
    relative = osp.relpath(path)
    return path if relative.startswith('..') else relative
