"""A line of a config, and the hosts' trainings keep less and compute the same."""
import copy

import pytest
import torch
from mmdet.utils import register_all_modules
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from torch import nn

import mmrev  # noqa: F401
from mmrev.hooks import SaveMemoryHook
from support.runs import build_runner, detector_config, train_regression

register_all_modules(init_default_scope=False)
HOOK = dict(type='mmrev.SaveMemoryHook')


@pytest.fixture(autouse=True)
def scope():
    """A runner leaves its scope behind; restore the scope for other tests."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def train(cfg, **changed):
    """The weights after a training, and the runner."""
    torch.manual_seed(0)
    runner = build_runner(cfg, randomness=dict(seed=0, deterministic=True), **changed)
    runner.train()
    return {name: value.clone() for name, value in runner.model.state_dict().items()}, runner


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.slow
@pytest.mark.parametrize('hook', [HOOK, dict(HOOK, level='blocks')], ids=['cheap', 'blocks'])
def test_a_detector_trains_to_the_same_weights_and_the_log_says_what_is_kept(tmp_path, hook):
    cfg = detector_config(tmp_path)
    cfg.train_cfg.max_epochs = 2
    expected, _ = train(cfg, custom_hooks=[])
    got, runner = train(cfg, custom_hooks=[hook], work_dir=str(tmp_path / 'saving'))
    assert_equal(expected, got)
    report = next(h for h in runner.hooks if isinstance(h, SaveMemoryHook)).report
    assert report.kept < 0.9 * report.plain and report.images == runner.cfg.train_dataloader.batch_size
    log = next((tmp_path / 'saving').rglob('*.log')).read_text()
    assert f'SaveMemoryHook: {report}' in log and 'MiB per image' in log


@pytest.mark.training
def test_checkpoints_fit_both_ways_and_resuming_with_a_moving_average_goes_on_the_same(tmp_path):
    cfg = detector_config(tmp_path)
    cfg.train_cfg.max_epochs = 2
    average = dict(type='EMAHook', momentum=0.5)
    expected, plain = train(cfg, custom_hooks=[average])
    got, saving = train(cfg, custom_hooks=[average, HOOK], work_dir=str(tmp_path / 'saving'))
    assert_equal(expected, got)
    ours, theirs = (torch.load(tmp_path / folder / 'epoch_2.pth', weights_only=False) for folder in ('saving', 'work'))
    for part in ('state_dict', 'ema_state_dict'):
        assert_equal(ours[part], theirs[part])
    saving.load_checkpoint(str(tmp_path / 'work' / 'epoch_1.pth'))  # into a model that has been prepared
    cfg.resume = True
    cfg.load_from = str(tmp_path / 'work' / 'epoch_1.pth')
    resumed = [train(cfg, custom_hooks=[average, *hooks], work_dir=str(tmp_path / 'resumed'))[0]
               for hooks in ([], [HOOK])]
    assert_equal(*resumed)


@pytest.mark.slow
def test_rtmdet_trains_to_the_same_weights_on_mosaics(tmp_path):
    cfg = get_config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
                dict(type='CachedMosaic', img_scale=(64, 64), max_cached_images=4),
                dict(type='RandomCrop', crop_size=(64, 64)), dict(type='YOLOXHSVRandomAug'),
                dict(type='Pad', size=(64, 64)), dict(type='PackDetInputs')]
    toy = detector_config(tmp_path)
    toy.train_dataloader.dataset.pipeline, toy.model = pipeline, cfg.model
    toy.merge_from_dict(dict(model=dict(
        backbone=dict(init_cfg=None, widen_factor=0.125), neck=dict(in_channels=[32, 64, 128], out_channels=16),
        bbox_head=dict(num_classes=2, in_channels=16, feat_channels=16))))
    expected, _ = train(toy, custom_hooks=[])
    assert_equal(expected, train(toy, custom_hooks=[HOOK], work_dir=str(tmp_path / 'saving'))[0])


def test_a_model_of_which_little_is_cheap_gets_a_warning(tmp_path):
    outputs = train_regression(tmp_path / 'plain', 2, [])
    hook = SaveMemoryHook()
    hook.LITTLE = 0.1
    assert all(torch.equal(a, b) for a, b in zip(outputs, train_regression(tmp_path / 'saving', 2, [hook])))
    log = next((tmp_path / 'saving').rglob('*.log')).read_text()
    assert 'WARNING' in log and "`level='blocks'`" in log


@pytest.mark.slow
def test_a_name_that_the_model_lacks_is_refused_before_the_first_iteration(tmp_path):
    hook = dict(HOOK, level='blocks', modules=['backbone.layer1', 'backbone.layer7'])
    with pytest.raises(ValueError, match="no 'backbone.layer7'"):
        train(detector_config(tmp_path), custom_hooks=[hook])


@pytest.mark.slow
def test_it_goes_with_inplace_abn(tmp_path):
    cfg = detector_config(tmp_path)
    cfg.train_cfg.max_epochs = 1
    expected, _ = train(cfg)
    got, _ = train(cfg, custom_hooks=[*cfg.custom_hooks, HOOK], work_dir=str(tmp_path / 'saving'))
    assert_equal(expected, got)


def test_synchronised_norms_are_recognised_within_their_function():
    library = torch.library.Library('aten', 'IMPL')  # which has that kernel for GPUs alone
    library.impl('batch_norm_elemt', lambda x, weight, bias, mean, invstd, eps:
                 (x - mean.view(-1, 1, 1)) * invstd.view(-1, 1, 1), 'CPU')

    class Sync(torch.autograd.Function):
        """As torch.nn.modules._functions.SyncBatchNorm: its kernel, called without gradients, from saved statistics."""

        @staticmethod
        def forward(ctx, x, mean, invstd):
            ctx.save_for_backward(x, mean, invstd)
            return torch.batch_norm_elemt(x, None, None, mean, invstd, 1e-5)

        @staticmethod
        def backward(ctx, grad):
            x, mean, invstd = ctx.saved_tensors
            return grad * invstd.view(-1, 1, 1), None, None

    class Net(nn.Module):

        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

        def forward(self, x):
            x = self.first(x)
            return self.last(torch.relu(Sync.apply(x, x.detach().mean((0, 2, 3)), x.detach().std((0, 2, 3)))))

    plain = Net().double()
    saving = copy.deepcopy(plain)
    report = mmrev.save_memory(saving)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for model in (plain, saving):
        model(x).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        assert torch.equal(a.grad, b.grad)
    values = 2 * 8 * 30 * 30 * 8
    assert report.plain > 2 * values and report.kept < 1.6 * values
    library._destroy()


def test_a_wrong_level_is_found_when_the_hook_is_built():
    with pytest.raises(ValueError, match='`level` must be one of'):
        SaveMemoryHook(level='cheep')
