"""Build what a run builds, with stand-ins for its data: what mmengine refuses, it refuses here, and writes nothing."""
import contextlib
import copy
import inspect
import io
import logging
import multiprocessing
import os.path as osp
import random
import urllib.request
import warnings
from numbers import Real
from types import SimpleNamespace
from typing import Any, Iterator, Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import MMLogger
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import DATASETS, HOOKS, METRICS, OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import distributed, nn
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from mmrev.cli.arguments import check_keys, check_values, registry_class
from mmrev.cli.errors import building, walk
from mmrev.problems import ProblemError, closest, one_line

_TAKEN_BY_MMENGINE = ('num_batch_per_epoch', 'disable_subprocess_warning')  # keys of a dataloader besides torch's
_SECONDS_TO_ANSWER = 10  # for a server that a data set would be downloaded from
_PARAMWISE = ('custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'dwconv_decay_mult',
              'flat_decay_mult', 'dcn_offset_lr_mult', 'bypass_duplicate')


@contextlib.contextmanager
def unnoticed() -> Iterator[None]:
    """Say nothing meanwhile, and leave the random generators as they were."""
    MMLogger.get_current_instance()  # mmengine's logger keeps the stream that it finds when it is made
    python, numpy, disabled = random.getstate(), np.random.get_state(), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (torch.random.fork_rng(devices=[]), warnings.catch_warnings(),
              contextlib.redirect_stdout(io.StringIO())):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def alone(launcher: str) -> Iterator[None]:
    """Be the only one of several processes that have not joined yet: some norm layers ask how many there are."""
    joined = False
    if launcher != 'none' and distributed.is_available() and not distributed.is_initialized():
        with contextlib.suppress(RuntimeError):  # gloo finds no network here; the run may use something else
            distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)
            joined = True
    try:
        yield
    finally:
        if joined:
            distributed.destroy_process_group()


def rehearse_environment(cfg: Config) -> None:
    """Check what the runner sets for the whole process: log level, seed, how workers are started.

    Args:
        cfg: The config.

    Raises:
        ProblemError: If one cannot be set.
    """
    level, randomness = cfg.get('log_level') or 'INFO', cfg.get('randomness') or {}
    processes = (cfg.get('env_cfg') or {}).get('mp_cfg') or {}
    with building('log_level', level, cfg.filename):
        logging.Handler().setLevel(level)
    with building('randomness', randomness, cfg.filename):
        check_keys(Runner.set_randomness, randomness, 'randomness', cfg.filename)
        np.random.seed(randomness.get('seed'))
    with building('env_cfg.mp_cfg', processes, cfg.filename):
        multiprocessing.get_context(processes.get('mp_start_method'))


def rehearse_data(cfg: Config, split: str) -> None:
    """Build data sets without reading their annotations, the dataloader without them, and the metrics.

    Args:
        cfg: The config.
        split: ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        ProblemError: If something of that cannot be built.
    """
    path = f'{split}_dataloader'
    config = cfg.get(path)
    if config is None:
        return
    for key in ('dataset', 'sampler'):
        if key not in config or isinstance(config[key], (int, float, str)):
            raise ProblemError(f'`{path}.{key}` is {config.get(key)!r}, not a dict with a type', f'Mend {cfg.filename}')
    _build_datasets(config.dataset, f'{path}.dataset', cfg.filename)
    with building(path, config, cfg.filename):
        check_keys(DataLoader, config, path, cfg.filename, besides=_TAKEN_BY_MMENGINE)
        check_values(DataLoader, config, path, cfg.filename)
        Runner.build_dataloader(_without_data(config), seed=0)
    metrics = cfg.get(f'{split}_evaluator') or ()
    for metric in [metrics] if isinstance(metrics, dict) else metrics:
        if isinstance(metric, dict) and 'metrics' not in metric and not metric.get('outfile_prefix'):
            _build_metric(metric, f'{split}_evaluator', cfg)


def rehearse_training(cfg: Config, model: nn.Module) -> Optional[OptimWrapper]:
    """Build training loop, optimizer and parameter schedulers.

    Args:
        cfg: The config.
        model: The model, built.

    Returns:
        The optimizer's wrapper; `None` if it cannot be known before the run.

    Raises:
        ProblemError: If one cannot be built, or would train nothing.
    """
    if registry_class(cfg.optim_wrapper.get('type'), OPTIM_WRAPPERS) is AmpOptimWrapper and get_device() == 'cpu':
        raise ProblemError('`optim_wrapper.type` is AmpOptimWrapper, which needs a GPU, and there is none here',
                        'Add --amp to train in bfloat16 on the CPU; `mmrev doctor` lists the devices')
    stage = _Stage(copy.deepcopy(cfg), model)
    try:
        with building('train_cfg', cfg.get('train_cfg'), cfg.filename):
            loop = stage._train_loop = stage.build_train_loop(stage._train_loop)
        with building('optim_wrapper', cfg.get('optim_wrapper'), cfg.filename):
            _check_paramwise(cfg)
            stage.optim_wrapper = stage.build_optim_wrapper(stage.optim_wrapper)
            _clip_something(stage.optim_wrapper)
        _build_hooks(cfg)
        with building('auto_scale_lr', cfg.get('auto_scale_lr'), cfg.filename):
            stage.scale_lr(stage.optim_wrapper, cfg.get('auto_scale_lr'))
        with building('param_scheduler', cfg.get('param_scheduler'), cfg.filename):
            stage._check_scheduler_cfg(cfg.get('param_scheduler'))
            stage.build_param_scheduler(copy.deepcopy(cfg.get('param_scheduler')) or [])
    except ProblemError as error:
        cause = error.__cause__
        if isinstance(cause, AttributeError) and cause.obj is stage:
            return None  # a class of the user's own asks the runner for more than there is yet
        raise
    for name in ('max_epochs', 'max_iters', 'val_interval'):
        value = getattr(loop, name, 1)
        if not isinstance(value, Real) or not value > 0:
            raise ProblemError(f'`train_cfg.{name}` is {value!r}, which must be a number above 0',
                            f'Mend it in {cfg.filename}, or override it with --cfg-options train_cfg.{name}=NUMBER')
    return stage.optim_wrapper


class _Stage(Runner):
    """A runner to build parts with: mmengine's own methods, without its ``__init__``, which makes folders."""

    def __init__(self, cfg: Config, model: nn.Module):
        self.cfg = cfg
        self.model = model
        self.optim_wrapper = cfg.optim_wrapper
        self.param_schedulers = None
        self.logger = logging.getLogger('mmrev.rehearsal')
        self.visualizer = SimpleNamespace()
        self._train_loop = cfg.train_cfg
        self._val_loop = self._test_loop = None
        self._world_size, self._rank = 1, 0
        self._train_dataloader = DataLoader(_ManyImages())


class _ManyImages(Dataset):
    """Stands for a data set of unknown size: large, such that a schedule in iterations always ends within it."""

    metainfo: dict = {}

    def __len__(self) -> int:
        return 10 ** 8

    def __getitem__(self, index: int) -> dict:
        return {}


def _without_data(dataloader: Config) -> dict:
    """The config of a dataloader with a stand-in for its data set, and for the sampler, which may need the real one."""
    kept = {key: copy.deepcopy(value) for key, value in dataloader.items() if key not in ('dataset', 'sampler')}
    kept.pop('num_batch_per_epoch', None)
    images = _ManyImages()
    return dict(kept, dataset=images, sampler=dataloader.sampler and SequentialSampler(images))


def _build_datasets(node: Any, path: str, file: str) -> None:
    """Build a data set, or those in a wrapper, as far as it goes without reading data: their pipelines above all."""
    if isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            _build_datasets(child, f'{path}.{index}', file)
    if not isinstance(node, dict):
        return
    if 'dataset' in node or 'datasets' in node:
        for key in ('dataset', 'datasets'):
            _build_datasets(node.get(key), f'{path}.{key}', file)
        return
    built = registry_class(node.get('type'), DATASETS, node.get('_scope_'))
    bases = built.__mro__ if inspect.isclass(built) else ()
    if any('lazy_init' in inspect.signature(base.__init__).parameters for base in bases):
        with building(path, node, file):
            check_download(DATASETS.build(dict(copy.deepcopy(node), lazy_init=True)), path)


def check_download(dataset: Any, path: str) -> None:
    """Check that a data set which fetches its own archive (mmpretrain's CIFAR) is there, or can be fetched.

    Args:
        dataset: The data set, not loaded.
        path: Its place in the config.

    Raises:
        ProblemError: If it is not there whole, and can't be.
    """
    if not all(hasattr(dataset, name) for name in ('url', 'filename', 'tgz_md5', 'download', '_check_integrity')):
        return
    if not isinstance(get_file_backend(dataset.data_prefix['root']), LocalBackend):
        return
    from mmpretrain.datasets.utils import check_integrity
    url, root = dataset.url, osp.normpath(dataset.data_prefix['root'])
    archive = osp.join(root, dataset.filename)
    if dataset._check_integrity() or dataset.download and check_integrity(archive, dataset.tgz_md5):
        return
    name = type(dataset).__name__
    elsewhere = f'or say where it is unpacked: --cfg-options {path}.data_root=FOLDER'
    if not dataset.download:
        raise ProblemError(f'{name} is not in `{root}`, or not whole, and `{path}.download` is False',
                        f'Leave `download` out, unpack {url} there, {elsewhere}')
    try:
        urllib.request.urlopen(url, timeout=_SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise ProblemError(f'{name} is not in `{root}` ({path}) and cannot be downloaded: {one_line(error)}',
                        f'Download {url} where that is possible and put it there as it is, {elsewhere}') from error


def _build_metric(config: dict, path: str, cfg: Config) -> None:
    """Build a metric without the annotations that it would read, if it can do without them."""
    built = registry_class(config['type'], METRICS, config.get('_scope_'))
    config = copy.deepcopy(config)
    if 'ann_file' in config:
        parameter = inspect.signature(built).parameters.get('ann_file')
        if parameter is None or parameter.default is not None:
            return
        config['ann_file'] = None
    with building(path, config, cfg.filename):
        METRICS.build(config)


def _check_paramwise(cfg: Config) -> None:
    """Find misspelt keys of ``paramwise_cfg``: mmengine's constructor leaves unread what it does not know."""
    for key in cfg.optim_wrapper.get('paramwise_cfg') or () if 'constructor' not in cfg.optim_wrapper else ():
        if key not in _PARAMWISE and closest(key, _PARAMWISE):
            raise ProblemError(f'`optim_wrapper.paramwise_cfg.{key}`: mmengine reads no `{key}` there',
                            f'{closest(key, _PARAMWISE)}Mend it in {cfg.filename}')


def _build_hooks(cfg: Config) -> None:
    """Build those of mmengine's hooks that the config has; others may do more than keep their arguments."""
    for path, entry in walk({key: cfg.get(key) for key in ('default_hooks', 'custom_hooks')}, ''):
        built = registry_class(entry.get('type'), HOOKS, entry.get('_scope_')) if isinstance(entry, dict) else None
        if path.count('.') == 1 and getattr(built, '__module__', '').startswith('mmengine.hooks.'):
            with building(path, entry, cfg.filename):
                HOOKS.build(copy.deepcopy(entry))


def _clip_something(optim_wrapper: Any) -> None:
    """Clip a gradient as the config says; mmengine itself looks at ``clip_grad`` in the first iteration."""
    if getattr(optim_wrapper, 'clip_grad_kwargs', None):
        weight = nn.Parameter(torch.ones(1))
        weight.grad = torch.ones(1)
        optim_wrapper.clip_func([weight], **optim_wrapper.clip_grad_kwargs)
