"""What options of the commands change: mixed precision, test-time augmentation, drawn and dumped predictions."""
import copy
import os
import sys
from typing import TYPE_CHECKING, Optional

from mmrev.problems import ProblemError, closest, phase

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner


def use_mixed_precision(cfg: 'Config') -> None:
    """Select the optimizer wrapper for mixed precision: mmengine's on a GPU, mmrev's on the CPU.

    Raises:
        ProblemError: If the config has chosen another wrapper.
    """
    from mmengine.device import get_device
    wrapper = cfg.get('optim_wrapper') or {}
    kind = getattr(wrapper.get('type'), '__name__', wrapper.get('type') or 'OptimWrapper').split('.')[-1]
    on_cpu = get_device() == 'cpu'
    if kind == 'BFloat16OptimWrapper' or kind == 'AmpOptimWrapper' and not on_cpu:
        return
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ProblemError(f"--amp replaces mmengine's OptimWrapper, but `optim_wrapper.type` is `{kind}`",
                           'Leave --amp out, or set up mixed precision in the config')
    for key in ('loss_scale', 'dtype', 'use_fsdp'):  # arguments of AmpOptimWrapper
        wrapper.pop(key, None)
    cfg.merge_from_dict({'optim_wrapper.type': 'mmrev.BFloat16OptimWrapper'} if on_cpu else
                        {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.loss_scale': 'dynamic'})


def use_memory_budget(cfg: 'Config', size: str) -> None:
    """Set the memory budget, such as ``'10GB'``; it replaces a budget of the config."""
    from mmrev.memory.report import parse_bytes
    parse_bytes(size)
    hooks = list(cfg.get('custom_hooks') or ())
    own = [hook for hook in hooks if str(hook.get('type')).endswith('MemoryBudgetHook')]
    options = dict(own[0]) if own else dict(type='mmrev.MemoryBudgetHook')
    cfg.custom_hooks = [hook for hook in hooks if hook not in own] + [dict(options, budget=size)]


def scale_learning_rate(cfg: 'Config') -> None:
    """Scale the learning rate with the batch size over ``auto_scale_lr.base_batch_size``.

    Raises:
        ProblemError: If the config has no such size.
    """
    if not isinstance(cfg.get('auto_scale_lr'), dict) or 'base_batch_size' not in cfg.auto_scale_lr:
        raise ProblemError('--auto-scale-lr: the config does not say for which batch size its learning rate is meant',
                           'Add auto_scale_lr=dict(enable=True, base_batch_size=16) to the config')
    cfg.auto_scale_lr.enable = True


def pin_memory(cfg: 'Config') -> None:
    """Use page-locked memory in the dataloaders if there is a GPU, unless the config specifies ``pin_memory``.

    Copies from there to the GPU are faster. The configs do not set it because PyTorch warns about it without a GPU.
    """
    from mmengine.device import is_cuda_available
    for part in ('train', 'val', 'test') if is_cuda_available() else ():
        if isinstance(cfg.get(f'{part}_dataloader'), dict):
            cfg[f'{part}_dataloader'].setdefault('pin_memory', True)


def require_workers(cfg: 'Config') -> None:
    """Require that the workers of the dataloaders can start; raise the limit of open files as far as is allowed.

    Raises:
        ProblemError: If the limit is too low, with which workers hang, or if they are far more than the processors.
    """
    loaders = [cfg.get(f'{part}_dataloader') or {} for part in ('train', 'val', 'test')]
    workers, processors = max(loader.get('num_workers', 0) for loader in loaders), os.cpu_count() or 1
    if workers > 64 + 8 * processors:
        raise ProblemError(f'a dataloader would start {workers} workers, and there are {processors} processors',
                           f'Set num_workers of the dataloaders to {processors} or less')
    try:
        import resource
    except ImportError:  # on Windows
        return
    needed = 64 + 8 * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < 4096:
        soft = 4096 if hard == unlimited else min(4096, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            raise ProblemError(f'this process may open {soft} files, and needs up to {needed}',
                               f'Raise the limit: ulimit -n {max(needed, 1024)}, or set num_workers=0')


def require_priorities(cfg: 'Config') -> None:
    """Require that the priorities of hooks are those of mmengine.

    Raises:
        ProblemError: If one is not.
    """
    from mmengine.runner.priority import Priority, get_priority

    from .entries import walk
    for section in ('default_hooks', 'custom_hooks'):
        for path, entry in walk(cfg.get(section), section):
            level = entry.get('priority') if isinstance(entry, dict) else None
            try:
                get_priority('NORMAL' if level is None else level)
            except (KeyError, ValueError, TypeError) as error:
                names = [*Priority.__members__]
                raise ProblemError(f'`{path}.priority` is {level!r}', f'{closest(str(level).upper(), names)}'
                                   f'Write one of {", ".join(names)}, or a number from 0 to 100') from error


def draw_predictions(cfg: 'Config', folder: Optional[str], show: bool = False, wait_time: float = 2.) -> Optional[str]:
    """Enable the visualization hook of the config. mmdet's and mmpretrain's have different keys.

    Args:
        cfg: The config.
        folder: Where to write the drawn images.
        show: Show them on the screen as well, each for `wait_time` seconds.
        wait_time: In seconds.

    Returns:
        The folder; absolute for mmpretrain's hook. mmdet's hook takes it relative to the log folder.

    Raises:
        ProblemError: If there is no such hook, or no screen.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise ProblemError('--show and --show-dir need a visualization hook, and the config has none',
                           "Add default_hooks=dict(visualization=dict(type='DetVisualizationHook'))")
    if show and not (os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY') or sys.platform != 'linux'):
        raise ProblemError('--show needs a display, but none is available', 'Write files instead: --show-dir drawn')
    if getattr(hook.type, '__name__', hook.type).split('.')[-1] == 'VisualizationHook':  # mmpretrain's
        folder = folder and os.path.abspath(folder)
        hook.update(enable=True, out_dir=folder, interval=1)  # by default it draws every 5000th image
    else:
        hook.update(draw=True, test_out_dir=folder)
    if folder and os.path.isabs(folder):
        from mmrev.side_effects import try_writing
        with phase(f'writing to --show-dir `{folder}`', 'Name another folder'):
            try_writing(folder)
    hook.update(show=show, wait_time=wait_time)
    return folder


def check_output(file: Optional[str], checkpoint: str) -> None:
    """Require that a test can write its predictions to a file, if one is given, and not over its checkpoint.

    Raises:
        ProblemError: If it cannot.
    """
    if file is not None and not file.endswith(('.pkl', '.pickle')):
        raise ProblemError(f'--out `{file}` must end in .pkl or .pickle', f'Write --out {file}.pkl')
    if file and os.path.isdir(file):
        raise ProblemError(f'--out `{file}` is a folder', f'Write --out {os.path.join(file, "predictions.pkl")}')
    if file and os.path.realpath(file) == os.path.realpath(checkpoint):
        raise ProblemError(f'--out `{file}` is the checkpoint, and would be overwritten', 'Name another file')
    if file:
        from mmrev.side_effects import try_writing_to
        with phase(f'writing --out `{file}`', 'Name another file'):
            try_writing_to(file)


def dump_predictions(runner: 'Runner', file: str) -> None:
    """Write the predictions of the test to a file."""
    from mmengine.registry import METRICS
    detects = any(base.__module__.startswith('mmdet.') for base in type(runner.model).__mro__)
    metric = 'mmdet.DumpDetResults' if detects else 'DumpResults'  # mmdet's packs masks
    runner.test_evaluator.metrics.append(METRICS.build(dict(type=metric, out_file_path=file)))


def augment_test(cfg: 'Config') -> None:
    """Wrap model and test pipeline for test-time augmentation, by default flipping.

    Raises:
        ProblemError: If the model does it itself.
    """
    from mmengine import ConfigDict
    if str(cfg.model.get('type')).endswith('MultiScaleEncoderDecoder'):
        raise ProblemError('MultiScaleEncoderDecoder fuses scales and flips itself', 'Leave --tta out and add '
                           '--cfg-options model.test_cfg.scales="(0.7,1,1.2)" model.test_cfg.flip=True')
    scope = cfg.get('default_scope')
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'tta_model' not in cfg:
        detects = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
        cfg.tta_model = dict(mmpretrain=dict(type='mmpretrain.AverageClsScoreTTA'),
                             mmseg=dict(type='SegTTAModel')).get(scope, detects)
    for key, kind in (('tta_model', dict), ('tta_pipeline', list)):
        if key in cfg and not (isinstance(cfg[key], kind) and cfg[key]):
            raise ProblemError(f'`{key}` of the config is {cfg[key]!r}, not a {kind.__name__}', 'Fix or delete it')
    if 'tta_pipeline' not in cfg:
        *steps, pack = copy.deepcopy(dataset.pipeline)
        if scope not in ('mmpretrain', 'mmseg'):
            pack.meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        truth = [step for step in steps if scope == 'mmseg' and 'LoadAnnotations' in step.type]  # it is not mirrored
        flips = [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)]
        cfg.tta_pipeline = [*(step for step in steps if step not in truth),
                            dict(type='TestTimeAug', transforms=[flips, *([step] for step in truth), [pack]])]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline
