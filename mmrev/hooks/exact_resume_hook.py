"""A resumed run is the uninterrupted one: random states in checkpoints, samples that depend on their place alone."""
import functools
import random
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from torch.utils.data import DataLoader, get_worker_info

from mmrev.problems import ProblemError
from mmrev.registry import HOOKS

from .side_effects import random_states, random_states_kept, set_random_states

_KEY = 'random_states'  # in a checkpoint: those of each process, in the order of the ranks


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Store the random states in checkpoints, and seed each sample by its place in the training.

    The place is the epoch, the batch and the position in the batch, so that a sample is augmented in the same way
    before and after a resume, with persistent workers, and with any number of workers. Validation leaves the random
    states as they are. Transforms that keep earlier samples, such as ``CachedMosaic``, start anew.
    """

    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._resumed: Sequence[Dict[str, Any]] = ()
        self._before_validation: Dict[str, Any] = {}
        self._states: List[Dict[str, Any]] = []

    def seed_samples(self, runner, loader: DataLoader) -> None:
        """Seed the samples of a dataloader. Call it before its workers start."""
        loader.generator = torch.Generator()  # else every epoch takes a number from the random state of the process
        if not hasattr(loader.dataset, '__getitems__') and hasattr(loader.dataset, '__dict__'):
            place = _Place(runner.seed, self._epoch)
            loader.dataset.__getitems__ = functools.partial(_read_batch, loader.dataset, place)

    def before_train_epoch(self, runner) -> None:
        """Tell the workers, which may be those of the last epoch, which epoch comes next."""
        self._epoch.fill_(runner.epoch)

    def after_load_checkpoint(self, runner, checkpoint: Dict[str, Any]) -> None:
        """Note the random states of a checkpoint that the run goes on from.

        Raises:
            ProblemError: If it has another number of schedules, of which mmengine would resume the first few.
        """
        saved, built = checkpoint.get('param_schedulers') or [], runner.param_schedulers
        if runner._resume and isinstance(saved, list) and isinstance(built, list) and len(saved) != len(built):
            raise ProblemError(f'the checkpoint has {len(saved)} schedules, and the config {len(built)}',
                               'To start from its weights: --cfg-options load_from=CHECKPOINT')
        self._resumed = checkpoint.get(_KEY) or ()

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Restore the random states, once the batches before are skipped."""
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
        """Take over how the runner saves checkpoints, which it does in the first process alone."""
        runner.save_checkpoint = functools.partial(self._save, runner.save_checkpoint)

    def _save(self, save: Callable, *args: Any, **kwargs: Any) -> Any:
        """Gather the random states of all processes."""
        alone = get_world_size() == 1 or (kwargs.get('meta') or {}).get('interrupted')  # the others may not be there
        self._states = [random_states()] if alone else all_gather_object(random_states())
        return save(*args, **kwargs)

    def before_save_checkpoint(self, runner, checkpoint: Dict[str, Any]) -> None:
        """Add the random states."""
        checkpoint[_KEY] = self._states


class _Place:
    """Where the reading of a data set stands; each worker has a copy, which shares the memory of ``epoch``."""

    def __init__(self, seed: int, epoch: torch.Tensor):
        self.seed = seed
        self.rank = get_rank()
        self.epoch = epoch
        self._batches = 0  # that this process has read in this epoch
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
