"""What a host expects of a backbone, asked of every registered one; and that every config and metafile entry fits.

A new backbone needs an entry in `tests/support/backbones.py`, nothing here.
"""
import copy
import importlib
import inspect
import pickle
import pkgutil
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch.nn.modules.batchnorm import _BatchNorm

from mmrev.models import backbones
from mmrev.models.backbone import Backbone
from mmrev.registry import MODELS
from mmrev.testing import assert_same_gradients
from support.backbones import BACKBONES, HEIGHT, WIDTH, build, kind
from support.images import image

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').glob('*/[!_]*.py')
                 if path.parent.name != '_base_')
METAFILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').glob('*/metafile.yml'))


def offers(name, argument):
    return argument in inspect.signature(kind(name)).parameters


def modes(argument, values):
    """Every backbone as it is by default, and those with the argument with all of its values."""
    return [pytest.param(name, {}, id=name) for name in BACKBONES] + [
        pytest.param(name, {argument: value}, id=f'{name}, {argument}={value}')
        for name in BACKBONES if offers(name, argument) for value in values]


def train_once(model):
    """A training step after which every weight that got a gradient, however small, has another value."""
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=0.01, eps=1e-30)
    outputs = [x for x in model(image(2, HEIGHT, WIDTH)) if x.requires_grad]
    sum((x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in outputs).backward()
    optimizer.step()


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def registered():
    """Every backbone of the registry, whether or not its package imports it."""
    for module in pkgutil.iter_modules(backbones.__path__, f'{backbones.__name__}.'):
        importlib.import_module(module.name)
    return {name for name, found in MODELS.module_dict.items() if found.__module__.startswith(backbones.__name__)}


def test_every_registered_backbone_is_asked_and_exported():
    missing = registered() - {kind(name).__name__ for name in BACKBONES}
    assert not missing, f'no small form of {sorted(missing)}: add it to tests/support/backbones.py'
    assert registered() == set(backbones.__all__)


@pytest.mark.parametrize('name', BACKBONES)
def test_levels_follow_out_indices(name):
    levels, model = BACKBONES[name].levels, build(name).eval()
    with torch.no_grad():
        outputs = model(image(2, HEIGHT, WIDTH))
        assert [tuple(x.shape) for x in outputs] == [(2, *shape) for shape in levels.values()]
        assert model.channels == tuple(channels for channels, _, _ in levels.values())
        for i, expected in zip(levels, outputs):
            alone = build(name, seed=1, out_indices=(i, )).eval()
            assert not alone.load_state_dict(model.state_dict(), strict=False).missing_keys
            output, = alone(image(2, HEIGHT, WIDTH))
            assert torch.equal(output, expected) and alone.channels == (levels[i][0], )


@pytest.mark.parametrize('name', BACKBONES)
def test_out_indices_may_be_negative_or_one_number(name):
    model, last = build(name).eval(), max(BACKBONES[name].levels)
    with torch.no_grad():
        *_, expected = model(image())
        for out_indices in (-1, (-1, ), [last], last):
            other = build(name, seed=1, out_indices=out_indices).eval()
            other.load_state_dict(model.state_dict(), strict=False)
            output, = other(image())
            assert other.out_indices == (last, ) and torch.equal(output, expected)


@pytest.mark.parametrize('name', BACKBONES)
@pytest.mark.parametrize('argument, value, message', [
    ('out_indices', (99, ), r'`out_indices` must lie in \[-\d+, \d+\), got \(99,\)'),
    ('out_indices', (1, 0), '`out_indices` must ascend'), ('out_indices', (), '`out_indices` must lie in'),
    ('frozen_stages', -2, r'`frozen_stages` must lie in \[-1, \d+\], got -2'),
    ('frozen_stages', 99, r'`frozen_stages` must lie in \[-1, \d+\], got 99')])
def test_a_level_or_a_stage_that_is_not_there_is_refused(name, argument, value, message):
    with pytest.raises(ValueError, match=message):
        build(name, **{argument: value})


@pytest.mark.parametrize('name', BACKBONES)
def test_weights_are_initialized_once(name):
    model = build(name)
    assert isinstance(model, Backbone)
    model.init_weights()
    before = state(model)
    model.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('name, kwargs', modes('reversible', [False]))
def test_gradients_reach_every_parameter_and_every_statistic_moves(name, kwargs):
    model = build(name, **kwargs).train()
    before = state(model)
    train_once(model)
    for key, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), f'no gradient for {key}'
    for key, value in model.state_dict().items():
        assert not torch.equal(value, before[key]), f'{key} did not change'
        assert 'num_batches_tracked' not in key or value == 1, f'{key} moved {value} times'


@pytest.mark.parametrize('name', [name for name in BACKBONES if offers(name, 'reversible')])
def test_whatever_level_is_taken_alone_no_weight_waits_for_a_gradient(name):
    """Under plain autograd, where DistributedDataParallel would wait; a reversible sequence gives it zeros."""
    for level in BACKBONES[name].levels:
        model = build(name, out_indices=(level, ), reversible=False).train()
        train_once(model)
        waiting = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not waiting, f'out_indices=({level}, ) leaves {waiting}'


@pytest.mark.parametrize('name', [name for name in BACKBONES if offers(name, 'reversible')])
def test_its_gradients_are_those_of_plain_autograd(name):
    assert_same_gradients(build(name).double(), image(2, HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize('name, kwargs', modes('reversible', [False]))
def test_what_is_frozen_does_not_change(name, kwargs):
    assert offers(name, 'frozen_stages')
    for stages, parts in BACKBONES[name].frozen.items():
        model = build(name, frozen_stages=stages, **kwargs).eval().train()
        before = state(model)
        train_once(model)
        unchanged = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
        assert unchanged == {key for key in before if key.startswith(parts)}, f'frozen_stages={stages}'
        for key, module in model.named_modules():
            assert not (module.training and f'{key}.'.startswith(parts)), f'{key}, frozen_stages={stages}'


@pytest.mark.parametrize('name', [name for name in BACKBONES if offers(name, 'norm_eval')])
def test_norm_eval_keeps_the_statistics_and_trains_the_weights(name):
    model = build(name, norm_eval=True).train()
    before = state(model)
    train_once(model)
    weights = dict(model.named_parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) is (key not in weights), key
    assert all(m.training is not isinstance(m, _BatchNorm) for m in model.modules())


@pytest.mark.parametrize('name', [name for name in BACKBONES if not offers(name, 'norm_eval')])
def test_a_backbone_without_norm_eval_has_no_statistics(name):
    assert not list(build(name).buffers())


@pytest.mark.parametrize('name', BACKBONES)
def test_evaluation_is_deterministic_and_copies_compute_the_same(name):
    drops = {key: 0.5 for key in ('drop_rate', 'attn_drop_rate', 'drop_path_rate') if offers(name, key)}
    model, other = build(name, **drops), build(name, seed=1, **drops)
    train_once(model)  # statistics are those of a batch
    other.load_state_dict(model.state_dict())
    random_state = torch.get_rng_state()
    with torch.no_grad():
        expected = model.eval()(image(2, HEIGHT, WIDTH))
        for same in (model, other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            for a, b in zip(same.eval()(image(2, HEIGHT, WIDTH)), expected, strict=True):
                assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), random_state)


@lru_cache(maxsize=None)
def load(config):
    return Config.fromfile(ROOT / config)


@pytest.mark.slow
@pytest.mark.parametrize('config', CONFIGS)
def test_a_config_builds_its_model(config):
    cfg = load(config)
    pytest.importorskip(cfg.default_scope)
    assert 'mmrev' in cfg.custom_imports.imports
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):  # shapes alone: quick
        model = MODELS.build(cfg.model)
    parts = [cfg.model[key] for key in ('neck', 'head', 'decode_head', 'panoptic_head') if cfg.model.get(key)]
    taken = next(part.in_channels for part in parts if 'in_channels' in part)
    taken = [taken] if isinstance(taken, int) else taken
    if cfg.model.backbone.type.startswith('mmrev.'):
        assert model.backbone.channels[-len(taken):] == tuple(taken)


def test_the_index_names_every_metafile():
    assert sorted(yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']) == METAFILES


@pytest.mark.parametrize('metafile', METAFILES)
def test_a_metafile_entry_names_a_config_of_its_folder(metafile):
    for entry in yaml.safe_load((ROOT / metafile).read_text())['Models']:
        assert entry['Config'] in CONFIGS and Path(entry['Config']).parent == Path(metafile).parent, entry['Name']
        tasks = {result['Task'] for result in entry['Results']}
        cfg = load(entry['Config'])
        assert ('Image Classification' in tasks) is ('ImageClassifier' in cfg.model.type), entry['Name']
        if 'Panoptic Segmentation' not in tasks:
            assert ('Instance Segmentation' in tasks) is ('mask_head' in cfg.model.get('roi_head', {})), entry['Name']


def test_no_two_metafile_entries_have_the_same_name():
    names = Counter(entry['Name'].lower() for path in METAFILES
                    for entry in yaml.safe_load((ROOT / path).read_text())['Models'])
    assert names and [name for name, number in names.items() if number > 1] == []
