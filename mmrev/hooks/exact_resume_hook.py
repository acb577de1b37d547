"""Make a resumed run identical to an uninterrupted one: random states in checkpoints, a seed for each sample."""
import functools
import random
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from torch.optim import Optimizer
from torch.utils.data import DataLoader, get_worker_info

from mmrev.problems import ProblemError
from mmrev.registry import HOOKS
from mmrev.side_effects import random_states, random_states_kept, set_random_states

_KEY = 'random_states'  # key in a checkpoint: the states of each process, by rank
_LIKE_WEIGHTS = ('exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'momentum_buffer')  # states with the shape of the weight
_PROGRESS = ('last_step', 'base_values', 'best', 'rule_worse', 'num_bad_epochs', 'cooldown_counter', 'params', 'lr',
             'momentum', 'betas')  # what changes during a training, of schedules and optimizers


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Store the random states in checkpoints, and seed each sample by its position in the training.

    The position is the epoch, the batch and the index in the batch, so that a sample is augmented in the same way
    before and after a resume, with persistent workers, and with any number of workers. Validation does not change the
    random states. Transforms that cache earlier samples, such as ``CachedMosaic``, start with an empty cache.
    """

    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._resumed: Sequence[Dict[str, Any]] = ()
        self._before_validation: Dict[str, Any] = {}
        self._states: List[Dict[str, Any]] = []

    def seed_samples(self, runner, loader: DataLoader) -> None:
        """Seed the samples of a dataloader. Must be called before its workers start."""
        loader.generator = torch.Generator()  # otherwise each epoch draws from the default generator
        if not hasattr(loader.dataset, '__getitems__') and hasattr(loader.dataset, '__dict__'):
            place = _Place(runner.seed, self._epoch)
            loader.dataset.__getitems__ = functools.partial(_read_batch, loader.dataset, place)

    def before_train_epoch(self, runner) -> None:
        """Set the epoch, which persistent workers read from shared memory."""
        self._epoch.fill_(runner.epoch)

    def after_load_checkpoint(self, runner, checkpoint: Dict[str, Any]) -> None:
        """Keep the random states of the checkpoint that the run resumes from.

        Raises:
            ProblemError: If the optimizer or the schedules of the checkpoint are not of the config's number or kind.
        """
        if runner._resume:
            _compare(runner, checkpoint)
        self._resumed = checkpoint.get(_KEY) or ()

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Restore the random states after the batches that are already done have been skipped."""
        if runner.iter and len(self._resumed) > get_rank():
            set_random_states(self._resumed[get_rank()])
        self._resumed = ()

    def before_val_epoch(self, runner) -> None:
        """Store the random states."""
        self._before_validation = random_states()

    def after_val_epoch(self, runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Restore the random states."""
        set_random_states(self._before_validation)

    def before_run(self, runner) -> None:
        """Wrap the runner's ``save_checkpoint``, so that all processes contribute their random states."""
        runner.save_checkpoint = functools.partial(self._save, runner.save_checkpoint)

    def _save(self, save: Callable, *args: Any, **kwargs: Any) -> Any:
        """Gather the random states of all processes."""
        alone = get_world_size() == 1 or (kwargs.get('meta') or {}).get('interrupted')  # other processes may have ended
        self._states = [random_states()] if alone else all_gather_object(random_states())
        return save(*args, **kwargs)

    def before_save_checkpoint(self, runner, checkpoint: Dict[str, Any]) -> None:
        """Add the random states. Remove the methods that `OneCycleLR` has there, which cannot be loaded safely."""
        checkpoint[_KEY] = self._states
        schedules = checkpoint.get('param_schedulers')
        if isinstance(schedules, list):
            checkpoint['param_schedulers'] = [_plain(state) for state in schedules]


def _plain(state: Dict[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in state.items() if not callable(value)}


def _compare(runner, checkpoint: Dict[str, Any]) -> None:
    """Refuse another kind of optimizer or schedule, whose values mmengine would mix; warn of values it replaces."""
    fix = 'To start from its weights: --cfg-options load_from=CHECKPOINT'
    saved, built, pairs = checkpoint.get('param_schedulers') or [], runner.param_schedulers or [], []
    if isinstance(saved, list) and isinstance(built, list):
        if len(saved) != len(built):
            raise ProblemError(f'the checkpoint has {len(saved)} schedules, and the config {len(built)}', fix)
        pairs += [(f'schedule {index}', type(schedule), state, _plain(schedule.state_dict()))
                  for index, (state, schedule) in enumerate(zip(saved, built))]
    if isinstance(runner.optim_wrapper, OptimWrapper):
        optimizer = runner.optim_wrapper.optimizer
        groups = (checkpoint.get('optimizer') or {}).get('param_groups') or ()
        if isinstance(groups, list) and len(groups) != len(optimizer.param_groups):
            raise ProblemError(f'the optimizer of the checkpoint has {len(groups)} groups of parameters, that of the '
                               f'config {len(optimizer.param_groups)}: its paramwise_cfg or the model differs', fix)
        pairs += [('the optimizer', type(optimizer), *pair) for pair in zip(groups, optimizer.param_groups)]
        _compare_state(optimizer, (checkpoint.get('optimizer') or {}).get('state'), fix)
    for place, kind, state, own in pairs:
        more, less = ({*state} - {*own}, {*own} - {*state}) if isinstance(state, dict) else ({state}, {*own})
        other = more and less if issubclass(kind, Optimizer) else more or less  # torch adds keys in new versions
        if other or state.get('param_name') != own.get('param_name'):
            raise ProblemError(f'{place} of the checkpoint is no {kind.__name__}, as in the config', fix)
        kept = [f'{key}={state[key]!r} (config: {own[key]!r})' for key in own
                if key[0] != '_' and key not in _PROGRESS and key in state and state[key] != own[key]]
        if kept:
            runner.logger.warning(f'{kind.__name__} ({place}) continues with values of the checkpoint: '
                                  f'{", ".join(kept)}. {fix}')


class _Place:
    """Counts the batches that a process reads; each worker has a copy, which shares the memory of ``epoch``."""

    def __init__(self, seed: int, epoch: torch.Tensor):
        self.seed = seed
        self.rank = get_rank()
        self.epoch = epoch
        self._batches = 0  # read by this process in this epoch
        self._in_epoch = -1

    def next_batch(self) -> List[int]:
        """Seed, rank, epoch and number of the batch that this process reads next."""
        epoch, worker = int(self.epoch), get_worker_info()
        self._batches = self._batches + 1 if epoch == self._in_epoch else 0
        self._in_epoch = epoch
        number = self._batches * worker.num_workers + worker.id if worker else self._batches
        return [self.seed, self.rank, epoch, number]


def _read_batch(dataset: Any, place: _Place, indices: Sequence[int]) -> List[Any]:
    """Read samples, each from random states of its own. PyTorch calls it as ``dataset.__getitems__``."""
    seeds, samples = np.random.SeedSequence(place.next_batch()).generate_state(len(indices)).tolist(), []
    with random_states_kept():
        for seed, index in zip(seeds, indices):
            np.random.seed(seed)
            random.seed(seed)
            torch.default_generator.manual_seed(seed)
            samples.append(dataset[index])
    return samples


def _compare_state(optimizer: Optimizer, state: Any, fix: str) -> None:
    """Refuse an optimizer state that is empty although it has moments, or is of weights of other shapes."""
    if not state and any('betas' in group or group.get('momentum') for group in optimizer.param_groups):
        raise ProblemError('the optimizer of the checkpoint has no state', fix)
    weights = [weight for group in optimizer.param_groups for weight in group['params']]
    for index, of_weight in (state or {}).items():
        for key in _LIKE_WEIGHTS:
            value = of_weight.get(key)
            if value is not None and index < len(weights) and value.shape != weights[index].shape:
                raise ProblemError(f'`optimizer.state.{index}.{key}` of the checkpoint has shape {tuple(value.shape)}, '
                                   f'and its weight {tuple(weights[index].shape)}', fix)
