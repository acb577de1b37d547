"""A resumed run is the uninterrupted one to the bit."""
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from torch.utils.data import DataLoader, Dataset

from mmrev.checkpoints import load_local
from mmrev.hooks import ExactResumeHook
from mmrev.hooks.exact_resume_hook import _compare_state
from mmrev.problems import ProblemError
from support import toy_detection
from support.commands import forked
from support.runs import train_regression

pytestmark = pytest.mark.slow

FLIPS = """
train_dataloader['dataset']['pipeline'].insert(3, dict(type='RandomFlip', prob=0.5))
train_dataloader['dataset']['pipeline'].insert(3, dict(type='PhotoMetricDistortion'))
randomness = dict(seed=3, deterministic=True)
train_cfg = dict(max_epochs=2)
"""


def test_a_detector_with_random_transforms_resumes_to_the_same_weights(tmp_path):
    """Persistent workers and another number of them; a detector samples boxes at random as well."""
    toy_detection.write_dataset(tmp_path / 'data', size=32)
    text = toy_detection.config_text(tmp_path / 'data').replace('scale=(64, 64)', 'scale=(32, 32)') + FLIPS
    (tmp_path / 'whole.py').write_text(text + 'train_dataloader.update(num_workers=2, persistent_workers=True)\n')
    (tmp_path / 'rest.py').write_text(text)
    status, errors = forked('train', 'whole.py', '--work-dir', 'whole', cwd=tmp_path)
    assert status == 0, errors
    (tmp_path / 'rest').mkdir()
    shutil.copy(tmp_path / 'whole/epoch_1.pth', tmp_path / 'rest')
    status, errors = forked('train', 'rest.py', '--work-dir', 'rest', '--resume', cwd=tmp_path)
    assert status == 0, errors
    whole, rest = (load_local(str(tmp_path / folder / 'epoch_2.pth')) for folder in ('whole', 'rest'))
    for name, weight in whole['state_dict'].items():
        assert torch.equal(weight, rest['state_dict'][name]), name


class Drawn(Dataset):
    """Samples that are random numbers of three kinds."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(())], dtype=torch.float64)


def batches(workers, epochs, first=0):
    hook, runner = ExactResumeHook(), SimpleNamespace(seed=5, epoch=0)
    dataset = Drawn()
    loader = DataLoader(dataset, 2, sampler=DefaultSampler(dataset, seed=0), num_workers=workers,
                        persistent_workers=workers > 0)
    hook.seed_samples(runner, loader)
    for runner.epoch in range(first, epochs):
        loader.sampler.set_epoch(runner.epoch)
        hook.before_train_epoch(runner)
        yield list(loader)


@pytest.mark.parametrize('workers', [0, 1, 3])
def test_samples_depend_on_their_place_alone(workers):
    torch.manual_seed(workers)
    before = torch.get_rng_state()
    expected, found = list(batches(0, 3)), list(batches(workers, 3, first=1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for e, f in zip(expected[1:], found) for a, b in zip(e, f))
    values = torch.cat([batch[:, 1:] for epoch in expected for batch in epoch])
    assert len(values.flatten().unique()) == values.numel()


class Noise(Hook):
    """Changes the weights by numbers of all generators, as dropout would."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with torch.no_grad():
            runner.model.body[0].weight.add_(torch.randn(3, 3, 3) * np.random.rand() * random.random() * 0.01)

    def before_train(self, runner):
        runner.train_dataloader.generator = torch.Generator()


def test_what_is_random_in_the_process_goes_on_where_it_was(tmp_path):
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
    whole = train_regression(tmp_path / 'whole', 3, [ExactResumeHook(), Noise()], default_hooks=hooks)[0]
    torch.randn(7)
    rest = train_regression(tmp_path / 'rest', 3, [ExactResumeHook(), Noise()], default_hooks=hooks, resume=True,
                            load_from=str(tmp_path / 'whole/epoch_1.pth'))[0]
    assert torch.equal(whole, rest)


def test_an_optimizer_without_state_or_of_other_weights_is_refused():
    weight = torch.zeros(2, 3, requires_grad=True)
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    state = optimizer.state_dict()['state']
    _compare_state(optimizer, state, '')
    with pytest.raises(ProblemError, match='has no state'):
        _compare_state(optimizer, {}, '')
    with pytest.raises(ProblemError, match=r'`optimizer.state.0.exp_avg` of the checkpoint has shape \(3, 2\)'):
        _compare_state(optimizer, {0: dict(state[0], exp_avg=torch.zeros(3, 2))}, '')
    _compare_state(torch.optim.SGD([weight], lr=1.), {}, '')
