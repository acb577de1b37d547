"""Recipes that are published: networks and schedules, held against their sources."""
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain')
from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402

from mmrev.cli import main  # noqa: E402

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[1] / 'configs'
# What minREV's README says for its three commands, in millions, and what main.py makes of the arguments.
MINREV = {
    'revvit': ('1.21', dict(embed_dims=128, num_layers=6, num_heads=8, feedforward_channels=512)),
    'revswin': ('2.22', dict(embed_dims=128, depths=(2, 2), num_heads=(4, 8))),
    'revmvit': ('1.26', dict(embed_dims=64, num_layers=4, num_heads=1, downscale_indices=(1, 3))),
}


def mmpretrain_config(name):
    return Config.fromfile(Config._get_cfg_path(f'mmpretrain::{name}', '')[0])


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key != '_scope_'}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize('amp', ['', '-amp'])
@pytest.mark.parametrize('family', MINREV)
def test_the_networks_of_minrevs_commands_have_the_parameters_that_are_published(family, amp):
    cfg = Config.fromfile(CONFIGS / f'{family}/{family}-minrev{amp}_cifar10.py')
    millions, arch = MINREV[family]
    assert cfg.model.backbone.arch == arch
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model).eval()
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert f'{sum(p.numel() for p in model.parameters()) / 1e6:.2f}' == millions


@pytest.mark.parametrize('family', MINREV)
def test_the_recipe_of_minrev_is_that_of_its_commands(family):
    cfg = Config.fromfile(CONFIGS / f'{family}/{family}-minrev_cifar10.py')
    assert plain(cfg.optim_wrapper) == dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))
    assert cfg.train_cfg.max_epochs == 100 and cfg.train_dataloader.batch_size == 128
    schedule, = cfg.param_scheduler
    assert (schedule.type, schedule.T_max, schedule.end) == ('CosineAnnealingLR', 100, 100)
    assert schedule.get('eta_min', 0) == 0
    crop, flip, _ = cfg.train_dataloader.dataset.pipeline
    assert (crop.type, crop.crop_size, crop.padding) == ('RandomCrop', 32, 4)
    assert (flip.type, flip.prob) == ('RandomFlip', 0.5)
    assert [round(value / 255, 4) for value in cfg.data_preprocessor.mean] == [0.4914, 0.4822, 0.4465]
    assert [round(value / 255, 4) for value in cfg.data_preprocessor.std] == [0.2023, 0.1994, 0.201]
    assert cfg.model.backbone.get('drop_path_rate', 0) == dict(revswin=0.2).get(family, 0)


@pytest.mark.parametrize('ours, theirs, drop_path', [
    ('revswin/revswin-tiny_16xb64', 'swin_transformer/swin-tiny_16xb64', 0.2),
    ('revmvit/revmvit-tiny_8xb256', 'mvit/mvitv2-tiny_8xb256', 0.1),
])
def test_imagenet_recipes_of_hierarchical_transformers_are_those_of_their_plain_twins(ours, theirs, drop_path):
    ours, theirs = Config.fromfile(CONFIGS / f'{ours}_in1k.py'), mmpretrain_config(f'{theirs}_in1k.py')
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader', 'val_dataloader', 'auto_scale_lr'):
        assert plain(ours[key]) == plain(theirs[key]), key
    assert ours.model.backbone.drop_path_rate == theirs.model.backbone.drop_path_rate == drop_path
    augments = [[augment.alpha for augment in cfg.model.train_cfg.augments] for cfg in (ours, theirs)]
    assert augments[0] == augments[1] == [0.8, 1.0]
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmpretrain'):
        assert MODELS.build(ours.model).eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


# Of the published code of RevBiFPN: pixels, stages without a new level, dropout of the head, drop path.
REVBIFPN = [(224, 2, 0.25, 0.), (256, 2, 0.25, 0.), (256, 2, 0.3, 0.), (288, 3, 0.3, 0.05), (320, 4, 0.4, 0.1),
            (352, 4, 0.4, 0.1), (352, 5, 0.6, 0.3)]


@pytest.mark.parametrize('size, facts', enumerate(REVBIFPN))
def test_what_the_code_of_revbifpn_states_of_a_size_is_in_its_config_and_in_the_readme(size, facts):
    from mmrev.models.backbones import RevBiFPN
    cfg = Config.fromfile(CONFIGS / f'revbifpn/revbifpn-s{size}_8xb128_in1k.py')
    arch = RevBiFPN.arch_zoo[cfg.model.backbone.arch]
    pixels, = (step.crop_size for step in cfg.test_pipeline if 'CenterCrop' in step.type)
    assert (pixels, arch['num_extra_stages'], cfg.model.head.dropout_rate, arch['drop_path_rate']) == facts
    assert cfg.train_pipeline[1].scale == pixels
    rows = [line.split('|')[2:9] for line in (CONFIGS / 'revbifpn/README.md').read_text().splitlines()
            if 'published code, `' in line]
    assert [float(row[size]) for row in rows] == list(facts)


CLASSIFIERS = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob('*/*xb*_in1k.py')
                     if 'amp' not in path.stem)
TRAINED = ['inplace_abn/resnet34-iabn-sync_8xb64_in1k.py', 'parameter_free/pf-resnet50-hybrid_4xb256_in1k.py',
           'parameter_free/pf-vit-ti-max_4xb256_in1k.py',  # RevBiFPN: test_docs_commands.py
           'revmvit/revmvit-tiny_8xb256_in1k.py', 'revswin/revswin-tiny_16xb64_in1k.py',
           'revvit/revvit-small_8xb256_in1k.py']


def folders_example(base):
    """The config of docs/own_data.md for folders of classes, with another base."""
    text = (CONFIGS.parent / 'docs/own_data.md').read_text(encoding='utf-8')
    example = re.search(r'```python\n(_base_ = [^\n]*in1k\.py.*?)```', text, re.DOTALL).group(1)
    assert len(example.splitlines()) == 10
    return re.sub(r"^_base_ = .*$", f"_base_ = 'mmrev::{base}'", example, flags=re.MULTILINE)


@pytest.mark.parametrize('base', CLASSIFIERS)
def test_the_ten_lines_for_folders_fit_any_of_our_classifiers(base, tmp_path):
    import mmrev.registry  # noqa: F401  makes `mmrev::` known
    (tmp_path / 'clothes.py').write_text(folders_example(base))
    cfg = Config.fromfile(tmp_path / 'clothes.py')
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))  # as the runner does
    assert model.head.num_classes == model.data_preprocessor.num_classes == 3
    assert cfg.custom_hooks == [] and cfg.optim_wrapper.keys() - {'_scope_'} == {'type', 'optimizer'}


@pytest.mark.slow
@pytest.mark.parametrize('base', TRAINED)
def test_the_ten_lines_for_folders_train_and_validate(base, tmp_path, monkeypatch):
    for split in ('train', 'val'):
        for name in ('dress', 'hat', 'shoes'):
            folder = tmp_path / 'data/clothes' / split / name
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / '0.jpg'), np.random.default_rng(0).integers(0, 255, (240, 240, 3), dtype=np.uint8))
    (tmp_path / 'clothes.py').write_text(folders_example(base))
    monkeypatch.chdir(tmp_path)
    loaders = [f'{split}_dataloader.{key}' for split in ('train', 'val', 'test')
               for key in ('num_workers=0', 'persistent_workers=False')]
    assert main(['train', 'clothes.py', '--cfg-options', 'train_dataloader.batch_size=3', 'train_cfg.max_epochs=1',
                 'param_scheduler.0.T_max=1', 'default_hooks.checkpoint=None', f'visualizer.name={tmp_path.name}',
                 *loaders]) == 0
    log = next((tmp_path / 'work_dirs/clothes').glob('*/*.log')).read_text()
    assert 'accuracy/top1' in log
