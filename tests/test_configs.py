"""Every config loads, and the detectors of all sizes train one real iteration."""
import ast
import importlib.util
import math
import re
from pathlib import Path

import cv2
import pytest
import torch

pytest.importorskip('mmdet')
from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from support.runs import small_run, write_masks  # noqa: E402
from support.toy_detection import CLASSES, write_dataset  # noqa: E402

CONFIGS = Path(__file__).parents[1] / 'configs'
DETECTORS = [f'{kind}_rcnn_revbifpn_s{number}' for kind in ('faster', 'mask') for number in range(7)]
LONGER = [f'{kind}_revbifpn-s{number}_8xb2-{length}_coco' for kind, length in (
    ('faster-rcnn', '2x'), ('mask-rcnn', '2x'), ('cascade-mask-rcnn', '20e')) for number in range(7)]
DIGITS = ['faster_rcnn_revbifpn_s0_digits', 'mask_rcnn_revbifpn_s0_digits']


def all_configs():
    """Every config that is meant to be run, by its path below configs/."""
    return [str(path.relative_to(CONFIGS)) for path in sorted(CONFIGS.glob('*/*.py'))
            if path.parts[-2] != '_base_' and not path.name.startswith('_')]


def load(name):
    return Config.fromfile(CONFIGS / name)


def written_bases(path):
    """What a config inherits from, as it writes it."""
    for statement in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], 'id', None) == '_base_':
            value = ast.literal_eval(statement.value)
            return value if isinstance(value, list) else [value]
    return []


def bases(path):
    """The files that a config inherits from, mmdet's as None."""
    return [None if '::' in name else (path.parent / name).resolve() for name in written_bases(path)]


def layers(path):
    """Length of the longest chain of bases, the config itself included; `_base_` and the hosts are one layer."""
    if path is None or '_base_' in path.parts:
        return 1
    return 1 + max((layers(base) for base in bases(path)), default=0)


def chain(path):
    """Length of the longest chain of bases within `_base_`."""
    return 1 + max(map(chain, filter(None, bases(path))), default=0)


@pytest.mark.parametrize('name', all_configs())
def test_config_has_at_most_three_layers(name):
    assert layers(CONFIGS / name) <= 3


@pytest.mark.parametrize('name', all_configs())
def test_a_config_without_an_underscore_can_be_run_and_says_its_batch_size(name):
    cfg = load(name)
    assert {'type', 'backbone'} <= cfg.model.keys() and cfg.train_dataloader.dataset and cfg.optim_wrapper.optimizer
    cfg.merge_from_dict({f'{part}.init_cfg.checkpoint': 'weights.pth' for part in ('model', 'model.backbone')})
    assert cfg.model.init_cfg == dict(type='mmrev.Pretrained', checkpoint='weights.pth')
    stated = re.search(r'_(\d+)xb(\d+)[-_]', name)
    if stated:
        processes, images = map(int, stated.groups())
        assert cfg.train_dataloader.batch_size == images
        assert cfg.auto_scale_lr.base_batch_size == processes * images
    of_data = re.search(r'_bs(\d+)', nearest_data(CONFIGS / name))
    assert not of_data or int(of_data.group(1)) == cfg.train_dataloader.batch_size


def nearest_data(path):
    """The name of the first data set's file among the bases, nearest to the config first."""
    names = written_bases(path)
    for base in names:
        if '/datasets/' in base:
            return base
    found = (nearest_data((path.parent / base).resolve()) for base in names if '::' not in base)
    return next(filter(None, found), '')


@pytest.mark.parametrize('path', sorted((CONFIGS / '_base_').rglob('*.py')), ids=lambda path: path.name)
def test_base_config_is_not_named_after_a_model(path):
    models = ('revbifpn', 'rcnn', 'revvit', 'revswin', 'revmvit', 'iabn', 'resnet', 'resnext')
    assert not any(word in path.stem for word in models)
    assert chain(path) <= 3 and all('_base_' in base.parts for base in filter(None, bases(path)))


@pytest.mark.parametrize('name', ['faster_rcnn_revbifpn_s3', *DIGITS])
def test_inheriting_through_the_package_builds_the_same_classes(name, tmp_path):
    """mmengine gives inherited entries another scope, in which a type's name may mean another package's class."""
    import mmrev.registry  # noqa: F401  makes `mmrev::` known
    (tmp_path / 'derived.py').write_text(f"_base_ = 'mmrev::revbifpn/{name}.py'\n")
    direct, inherited = load(f'revbifpn/{name}.py'), Config.fromfile(tmp_path / 'derived.py')
    assert plain(direct._cfg_dict) == plain(inherited._cfg_dict)
    assert built_classes(direct) == built_classes(inherited)


def built_classes(cfg):
    """The classes that a config's model, data sets and transforms are built from."""
    from mmdet.registry import DATASETS, TRANSFORMS
    with DefaultScope.overwrite_default_scope('mmdet'):
        with torch.device('meta'):
            classes = [type(module) for module in MODELS.build(cfg.model).modules()]
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            dataset = cfg[name].dataset
            with DATASETS.switch_scope_and_registry(dataset.get('_scope_')) as registry:
                classes.append(registry.get(dataset.type))
                classes.extend(type(TRANSFORMS.build(transform)) for transform in dataset.pipeline)
    return classes


@pytest.fixture(scope='module')
def hrnet():
    """mmdet's configs of the recipe that the paper uses, by the kind of detector."""
    names = {'faster': 'faster-rcnn_hrnetv2p-w32-1x', 'mask': 'mask-rcnn_hrnetv2p-w32-1x',
             'faster_2x': 'faster-rcnn_hrnetv2p-w32_2x', 'mask_2x': 'mask-rcnn_hrnetv2p-w32-2x',
             'cascade': 'cascade-mask-rcnn_hrnetv2p-w32_20e'}
    names = {kind: f'mmdet::hrnet/{name}_coco.py' for kind, name in names.items()}
    return {kind: Config.fromfile(Config._get_cfg_path(name, '')[0]) for kind, name in names.items()}


@pytest.mark.parametrize('name', [*DETECTORS, *LONGER])
def test_the_coco_recipe_is_that_of_hrnet(name, hrnet):
    ours, theirs = load(f'revbifpn/{name}.py'), hrnet[re.split('[_-]', name)[0] + '_2x' * ('-2x' in name)]
    for key in ('train_dataloader', 'val_dataloader', 'val_evaluator', 'optim_wrapper', 'param_scheduler', 'train_cfg',
                'auto_scale_lr'):
        assert plain(ours[key]) == plain(theirs[key])
    for part in ('type', 'rpn_head', 'roi_head', 'train_cfg', 'test_cfg', 'data_preprocessor'):
        assert plain(ours.model[part]) == plain(theirs.model[part])
    assert ours.model.backbone.arch == re.search(r'revbifpn[-_](s\d)', name).group(1)
    assert ours.model.neck.out_channels == theirs.model.neck.out_channels


@pytest.mark.parametrize('name', [name for name in [*DETECTORS, *DIGITS] if name.startswith('mask')])
def test_detectors_with_and_without_masks_differ_in_nothing_before_the_heads(name):
    masks, boxes = load(f'revbifpn/{name}.py'), load(f'revbifpn/{name.replace("mask", "faster")}.py')
    for part in ('backbone', 'neck', 'rpn_head'):
        assert plain(masks.model[part]) == plain(boxes.model[part])


@pytest.mark.slow
@pytest.mark.parametrize('name', [
    'faster_rcnn_revbifpn_s0', 'faster_rcnn_revbifpn_s6', 'mask_rcnn_revbifpn_s0',
    'cascade-mask-rcnn_revbifpn-s0_8xb2-20e_coco', 'mask_rcnn_revbifpn_s0_digits'])
def test_one_training_iteration_changes_every_part_of_the_detector(name, tmp_path):
    """Of the smallest and the largest backbone; `test_a_config_builds_its_model` builds the sizes between."""
    train_one_iteration(load(f'revbifpn/{name}.py'), 'backbone.stages.couplings.0.', tmp_path)


SMALL_SWIN = dict(embed_dims=96, depths=(1, 1, 1, 1), num_heads=(3, 3, 3, 3))  # the necks are made for these channels
SMALL_VIT = dict(embed_dims=768, num_layers=1, num_heads=12, feedforward_channels=96)


@pytest.mark.slow
@pytest.mark.parametrize('name, arch, first', [
    ('revvit/faster_rcnn_revvit_sfp_digits', None, 'backbone.layers.couplings.0.'),
    ('revvit/mask_rcnn_revvit_sfp_digits', None, 'backbone.layers.couplings.0.'),
    ('revvit/faster_rcnn_revvit-b_sfp', SMALL_VIT, 'backbone.layers.couplings.0.'),
    ('revvit/mask_rcnn_revvit-b_sfp', SMALL_VIT, 'backbone.layers.couplings.0.'),
    ('revswin/faster_rcnn_revswin_fpn_digits', None, 'backbone.blocks.couplings.0.'),
    ('revswin/mask_rcnn_revswin_fpn_digits', None, 'backbone.blocks.couplings.0.'),
    ('revswin/faster_rcnn_revswin-t_fpn', SMALL_SWIN, 'backbone.blocks.couplings.0.'),
    ('revswin/mask_rcnn_revswin-t_fpn', SMALL_SWIN, 'backbone.blocks.couplings.0.'),
])
def test_one_training_iteration_of_a_transformer_changes_every_part(name, arch, first, tmp_path):
    """Of COCO's, with few layers; `test_config_builds_its_model` builds them as they are."""
    cfg = load(f'{name}.py')
    if arch:
        cfg.model.backbone.arch = arch
    train_one_iteration(cfg, first, tmp_path)


def train_one_iteration(cfg, first, folder):
    """On two small images; weights of ``first`` in the backbone, of the neck and of every head must change."""
    write_masks(write_dataset(folder / 'data', num_images=2))
    overrides = small_run(folder)
    if isinstance(cfg.model.roi_head.bbox_head, list):  # a cascade's stages
        stages = {str(stage): dict(num_classes=len(CLASSES)) for stage in range(3)}
        overrides['model'] = dict(roi_head=dict(bbox_head=stages), train_cfg=dict(rpn_proposal=dict(max_per_img=50)))
    cfg.merge_from_dict(overrides)
    parts = [first, 'neck.', 'rpn_head.', 'roi_head.bbox_head.']
    if 'mask_head' in cfg.model.roi_head:
        cfg.model.roi_head.mask_head.num_classes = len(CLASSES)
        parts.append('roi_head.mask_head.')
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    before = {name: float(weight.detach().abs().sum()) for name, weight in runner.model.named_parameters()}
    runner._init_model_weights = lambda: None  # done; `before` holds these weights
    runner.train()
    assert runner.iter == 1
    changed = {name for name, weight in runner.model.named_parameters()
               if float(weight.detach().abs().sum()) != before[name]}
    for part in parts:
        assert any(name.startswith(part) for name in changed), f'no weight of {part} changed'
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 1 and math.isfinite(losses[0])


def test_the_lines_for_masks_make_the_example_a_mask_detector(tmp_path):
    import mmrev.registry  # noqa: F401  makes `mmrev::` known
    text = (CONFIGS.parent / 'docs' / 'own_data.md').read_text(encoding='utf-8')
    example, lines = re.findall(r'```python\n(.*?)```', text, re.DOTALL)[:2]
    for line in lines.splitlines():
        example = re.sub(rf'^{line.split(" = ")[0]} = .*$', lambda _: line, example, flags=re.MULTILINE)
    (tmp_path / 'cells.py').write_text(example)
    cfg = Config.fromfile(tmp_path / 'cells.py')
    assert cfg.model.type == 'MaskRCNN' and 'segm' in cfg.val_evaluator.metric
    assert cfg.model.roi_head.bbox_head.num_classes == cfg.model.roi_head.mask_head.num_classes == 3


@pytest.mark.parametrize('task', ['bbox', 'segm', 'semseg'])
def test_the_benchmark_on_own_data_compares_models_that_differ_in_backbone_and_neck_alone(task, tmp_path, monkeypatch):
    import mmrev.registry  # noqa: F401  makes `mmrev::` known
    if task == 'semseg':
        pytest.importorskip('mmseg')
    benchmark = own_data_benchmark(monkeypatch)
    (tmp_path / 'annotations').mkdir()
    write_dataset(tmp_path / 'data').rename(tmp_path / 'annotations' / 'train.json')
    configs = []
    for name in benchmark.TASKS[task].models:
        text = benchmark.config_text(name, benchmark.parse_args([str(tmp_path), '--task', task]))
        (tmp_path / f'{name}.py').write_text(text)
        configs.append(plain(Config.fromfile(tmp_path / f'{name}.py')._cfg_dict))
    ours, *others = configs
    assert ours['train_dataloader']['dataset']['pipeline'][1].get('with_mask', False) is (task == 'segm')
    for cfg in configs:
        del cfg['model']['backbone']
        if task == 'semseg':
            assert cfg['model']['decode_head']['num_classes'] == 3
            assert cfg['train_dataloader']['dataset']['metainfo'] == dict(classes=['background', *CLASSES])
            del cfg['model']['decode_head']['in_channels']
            continue
        del cfg['model']['neck']
        cfg['model'].pop('init_cfg', None)  # does nothing while its checkpoint is None
    for theirs in others:
        for key in theirs:
            assert ours[key] == theirs[key], key


def test_the_benchmark_on_own_data_draws_labels_one_above_those_of_the_boxes(tmp_path, monkeypatch):
    (tmp_path / 'annotations').mkdir()
    for split in ('train', 'val'):
        file = write_dataset(tmp_path / split, num_images=1)
        write_masks(file)
        file.rename(tmp_path / f'annotations/{split}.json')
    own_data_benchmark(monkeypatch).draw_labels(tmp_path, tmp_path / 'labels')
    image = cv2.imread(str(tmp_path / 'val/images/0.png'), cv2.IMREAD_GRAYSCALE)  # squares of 20 and 235 on 128
    labels = cv2.imread(str(tmp_path / 'labels/val/0.png'), cv2.IMREAD_UNCHANGED)
    assert (labels == 1).any() and (labels == 2).any()
    assert (labels == (image < 128) + 2 * (image > 128)).all()


def own_data_benchmark(monkeypatch):
    """benchmarks/own_data.py, which imports from its own folder."""
    path = CONFIGS.parent / 'benchmarks' / 'own_data.py'
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    return benchmark


def plain(value):
    """Config values without `_scope_`, which says where they were inherited from."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key != '_scope_'}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
