"""Report what a run was doing when an exception ended it."""
import functools
import os.path as osp
from typing import Any, Callable, Iterator

from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop

from mmrev.checkpoints.loaders import UNREACHABLE
from mmrev.datasets.checks import is_image, why_unreadable
from mmrev.problems import passed_by, phase
from mmrev.registry import HOOKS


@HOOKS.register_module()
class PhaseHook(Hook):
    """Turn exceptions into `mmrev.problems.ProblemError` that names the phase of the run.

    The phases are initializing the weights, loading a checkpoint, reading a sample, an iteration, and evaluating with a
    metric. `SafeCheckpointHook` adds writing a checkpoint.
    """

    priority = 'HIGHEST'

    @staticmethod
    def name_preparation(runner) -> None:
        """Name the phases that a FlexibleRunner completes before `before_run`."""
        _name(runner, 'load_or_resume', lambda: f'loading `{runner._load_from or runner.work_dir}`', 2,
              UNREACHABLE * ('://' in (runner._load_from or '')))
        strategy = getattr(runner, 'strategy', None)
        _name(strategy or runner, '_init_model_weights', lambda *_: 'initializing the weights', 2)
        if strategy:
            _name(strategy, 'prepare', lambda *_, **__: f'{type(strategy).__name__} cannot prepare the model with '
                  f'--launcher {strategy.launcher}', 2)

    @staticmethod
    def name_samples(dataset: Any) -> None:
        """Name a sample that cannot be read. Must be called before the workers of a dataloader start."""
        for inner in innermost(dataset):
            inner.prepare_data = functools.partial(_read_sample, inner)

    def before_run(self, runner) -> None:
        """Name the phases of the loops, which have been built by now."""
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if isinstance(loop, BaseLoop):
                self._name_loop(runner, loop)

    def _name_loop(self, runner, loop: BaseLoop) -> None:
        trains = loop is runner._train_loop
        _name(loop, 'run_iter', lambda *batch: f'iteration {runner.iter + 1}' if trains else
              f'evaluating batch {batch[0] + 1}')
        for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', ()):
            for method in ('process', 'evaluate'):
                _name(metric, method, lambda *_, metric=metric, **__: f'evaluating with {type(metric).__name__}')


def _name(owner: Any, method: str, name: Callable[..., str], status: int = 1, fix: str = '') -> None:
    """Wrap a method of an object in a phase; its name may depend on the arguments."""
    run = getattr(owner, method)

    @functools.wraps(run)
    def in_phase(*args: Any, **kwargs: Any) -> Any:
        with phase(name(*args, **kwargs), fix, status):
            return run(*args, **kwargs)

    setattr(owner, method, in_phase)


def innermost(dataset: Any) -> Iterator[BaseDataset]:
    """The data sets inside any wrappers."""
    if isinstance(dataset, BaseDataset):
        yield dataset
        return
    for inner in [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())]:
        if inner is not None:
            yield from innermost(inner)


def _read_sample(dataset: BaseDataset, index: int) -> Any:
    """`BaseDataset.prepare_data` in a phase; a module-level function, so that it can be pickled for data workers."""
    try:
        return type(dataset).prepare_data(dataset, index)
    except Exception as error:
        info = dataset.get_data_info(index)
        file = info.get('img_path', type(dataset).__name__)
        if isinstance(info.get('seg_map_path'), str) and is_image(file) and not is_image(info['seg_map_path']):
            file = info['seg_map_path']
        steps = getattr(dataset.pipeline, 'transforms', None) or ()
        step, where, fix = passed_by(error, steps, BaseTransform), '', 'Fix or remove that sample'
        if step is not None and is_image(file):
            where, fix = f', {type(step).__name__}', 'Fix that step of the pipeline, or the sample'
            if hasattr(step, 'get_indexes') or hasattr(step, 'get_indices'):
                fix = 'That step mixes several images: move it to the pipeline of a MultiImageMixDataset'
        with phase(f'reading sample {index} of `{file}`{where}', fix):
            loads = type(step).__name__ in ('LoadImageFromFile', 'LoadAnnotations')
            if loads and osp.isfile(file) and not is_image(file):
                raise ValueError(why_unreadable(file)) from error
            raise error
