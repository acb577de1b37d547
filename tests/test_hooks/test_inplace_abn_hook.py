"""The hosts' own models become InPlace-ABN by config alone."""
import copy

import pytest
import torch
from mmdet.utils import register_all_modules
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from torch import nn

import mmrev.models  # noqa: F401
from mmrev.checkpoints import allow_mmengine_checkpoints
from mmrev.hooks import InPlaceABNHook, check_activations, watch_activations
from mmrev.layers import ABN, BatchNormAct, InPlaceABN
from mmrev.surgery import convert_batchnorm
from support.runs import Regression, build_runner, detector_config, train_regression

register_all_modules(init_default_scope=False)


@pytest.fixture(autouse=True)
def scope():
    """A runner leaves its scope behind; restore the scope for other tests."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def filled(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight.uniform_(0.5, 1.5, generator=generator)
                m.weight *= torch.randint(0, 2, m.weight.shape, generator=generator) * 2 - 1
                m.bias.normal_(generator=generator)
                m.running_mean.normal_(generator=generator)
                m.running_var.uniform_(0.5, 2, generator=generator)
    return model


def losses_and_gradients(model, batch):
    torch.manual_seed(0)
    model.zero_grad()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    loss, parsed = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    return parsed, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_faster_rcnn_by_the_hook_alone(tmp_path):
    runner = build_runner(detector_config(tmp_path))
    model = filled(runner.model)
    before = copy.deepcopy(model.state_dict())
    batch = next(iter(runner.build_dataloader(runner.cfg.train_dataloader)))
    model.train()
    expected = losses_and_gradients(model, batch)

    hook = next(h for h in runner.hooks if isinstance(h, InPlaceABNHook))
    hook.before_train(runner)
    model.train()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert sum(isinstance(m, InPlaceABN) for m in model.modules()) == 53
    losses, gradients = losses_and_gradients(model, batch)
    for name, value in expected[0].items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-6, msg=lambda m: f'{name}: {m}')
    assert gradients.keys() == expected[1].keys()
    for name, theirs in expected[1].items():
        error = (gradients[name].abs() - theirs.abs()).norm()
        assert error <= 1e-4 * theirs.norm() + 1e-7, f'{name}: {error / theirs.norm()}'

    checkpoint = dict(state_dict=dict(model.state_dict()))
    hook.before_save_checkpoint(runner, checkpoint)
    saved = checkpoint['state_dict']
    assert saved.keys() == before.keys()
    for name, value in before.items():  # folded signs apart, as it was loaded
        torch.testing.assert_close(saved[name].abs(), value.abs(), rtol=1e-5, atol=1e-6, msg=lambda m: f'{name}: {m}')


@pytest.mark.slow
def test_trains_saves_resumes_and_tests(tmp_path, caplog):
    cfg = detector_config(tmp_path, load_from=str(tmp_path / 'start.pth'))
    start = build_runner(cfg)
    filled(start.model)
    torch.save(dict(state_dict=start.model.state_dict(), meta={}), cfg.load_from)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.5))
    runner = build_runner(cfg)
    runner.train()
    assert sum(isinstance(m, InPlaceABN) for m in runner.model.modules()) == 53
    assert not any(m._forward_pre_hooks for m in runner.model.modules())  # of what watched the first iteration
    first = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=False)
    plain = build_runner(cfg, custom_hooks=[]).model
    plain.load_state_dict(first['state_dict'])  # the averaged ones, as batch norms
    runner.model.eval(), plain.eval()
    averaged = next(h.ema_model.module for h in runner.hooks if hasattr(h, 'ema_model'))
    x = torch.randn(1, 3, 64, 64)
    averaged.eval()
    for ours, theirs in zip(averaged.extract_feat(x), plain.extract_feat(x)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    runner.load_checkpoint(str(tmp_path / 'work' / 'epoch_1.pth'))  # into the converted model
    for ours, theirs in zip(runner.model.extract_feat(x), plain.extract_feat(x)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    cfg.train_cfg.max_epochs, cfg.resume, cfg.load_from = 2, True, None
    resumed = build_runner(cfg)
    resumed.train()
    assert resumed.epoch == 2
    metrics = build_runner(cfg, resume=False, load_from=str(tmp_path / 'work' / 'epoch_2.pth')).test()
    assert isinstance(metrics, dict)  # empty where nothing is detected


def load(file):
    allow_mmengine_checkpoints()
    return torch.load(file)


@pytest.mark.parametrize('average', [[], [dict(type='EMAHook', momentum=0.3)]], ids=['', 'average'])
def test_a_resumed_training_is_the_interrupted_one(tmp_path, average):
    hooks = [dict(type='mmrev.InPlaceABNHook'), *average]
    expected = train_regression(tmp_path / 'straight', 4, hooks)
    train_regression(tmp_path / 'resumed', 2, hooks)
    checkpoint = load(tmp_path / 'resumed' / 'epoch_2.pth')
    assert all(negative['body.1.weight'] for negative in checkpoint['inplace_abn_negative'].values())
    assert (checkpoint['state_dict']['body.1.weight'] > 0).all()
    Regression().load_state_dict(checkpoint['state_dict'])
    for ours, theirs in zip(train_regression(tmp_path / 'resumed', 4, hooks, resume=True), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_an_average_of_other_signs_than_the_model_is_named(tmp_path):
    average = dict(type='EMAHook', momentum=0.3)
    train_regression(tmp_path, 1, [average])
    checkpoint = load(tmp_path / 'epoch_1.pth')
    checkpoint['state_dict']['body.1.weight'] = -checkpoint['ema_state_dict']['module.body.1.weight']
    torch.save(checkpoint, tmp_path / 'epoch_1.pth')
    train_regression(tmp_path, 2, [dict(type='mmrev.InPlaceABNHook'), average], resume=True)
    log = ''.join(path.read_text() for path in tmp_path.rglob('*.log'))
    assert 'converted differently' in log and 'changes the function: body.1.' in log


class Toy(BaseModel):

    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x, mode='tensor'):
        return self.body(x)


@pytest.mark.parametrize(('layers', 'named'), [
    ((nn.Conv2d(3, 4, 1), InPlaceABN(4), nn.ReLU()), 'body.2 after body.1'),
    ((nn.Conv2d(3, 4, 1), ABN(4), nn.Hardswish()), 'body.2 after body.1'),
    ((nn.Conv2d(3, 4, 1), InPlaceABN(4, activation='identity'), nn.ReLU(inplace=True)), 'body.2 after body.1'),
    ((nn.Conv2d(3, 4, 1), BatchNormAct(4), nn.ReLU()), 'body.2 after body.1'),
    ((nn.Conv2d(3, 4, 1), ABN(4, activation='identity'), nn.ReLU(inplace=True)), None),
    ((nn.Conv2d(3, 4, 1), InPlaceABN(4, activation='identity'), nn.ReLU()), None),
    ((nn.Conv2d(3, 4, 1), InPlaceABN(4), nn.Conv2d(4, 4, 1), nn.ReLU()), None),
])
def test_an_activation_after_an_activated_norm_is_named(layers, named):
    if named is None:
        check_activations(Toy(*layers))
        return
    with pytest.raises(ValueError, match=f'{named}.*act_cfg=None'):
        check_activations(Toy(*layers))


class Own(nn.Module):

    def __init__(self):
        super().__init__()
        self.norm, self.act = InPlaceABN(4), nn.ReLU()

    def forward(self, x):
        return self.act(self.norm(x))


def test_an_activation_in_a_forward_of_ones_own_is_named_in_the_first_iteration():
    model, x = Own(), torch.randn(2, 4, 3, 3)
    handles = watch_activations(model)
    with pytest.raises(ValueError, match='act after norm.*act_cfg=None'):
        model(x)
    for handle in handles:
        handle.remove()
    model(x)


@pytest.mark.slow
def test_a_host_block_with_activated_norms_is_named_when_the_runner_starts(tmp_path):
    cfg = detector_config(tmp_path)
    cfg.model.backbone.norm_cfg = dict(type='mmrev.InPlaceABN')
    with pytest.raises(ValueError, match='backbone.relu after backbone.bn1'):
        build_runner(cfg).train()


def test_efficient_conv_bn_eval_and_the_conversion_leave_each_other_alone():
    from mmdet.registry import MODELS
    from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
    model = filled(MODELS.build(dict(type='mmdet.ResNet', depth=18, base_channels=8, norm_eval=True)))
    model.train()
    x = torch.randn(1, 3, 64, 64)
    expected = model(x)
    efficient = Toy()
    efficient.body = copy.deepcopy(model)
    turn_on_efficient_conv_bn_eval(efficient, ['body'])
    report = convert_batchnorm(efficient)
    assert not report.converted and all('efficient_conv_bn_eval' in reason for reason in report.kept.values())

    assert not convert_batchnorm(model).kept
    converted = Toy()
    converted.body = model
    converted.train()
    with pytest.raises(TypeError, match='InPlaceABN.*efficient_conv_bn_eval'):
        turn_on_efficient_conv_bn_eval(converted, ['body'])
    for ours, theirs in zip(converted(x), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_fuse_conv_bn_leaves_converted_models_alone():
    from mmcv.cnn import fuse_conv_bn
    from mmdet.registry import MODELS
    model = filled(MODELS.build(dict(type='mmdet.ResNet', depth=18, base_channels=8, norm_eval=True)))
    model.eval()
    x = torch.randn(1, 3, 64, 64)
    expected = model(x)
    convert_batchnorm(model)
    for ours, theirs in zip(fuse_conv_bn(model)(x), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
