"""Starting from weights: every base config, every way to name a checkpoint, and every file that is not a checkpoint."""
import copy
import http.server
import logging
import os
import re
import subprocess
import sys
import threading
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')
from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.model import PretrainedInit, initialize  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from torch import nn  # noqa: E402

from mmrev.checkpoints import published  # noqa: E402
from mmrev.checkpoints.families.revbifpn import convert_state_dict  # noqa: E402
from mmrev.cli import main  # noqa: E402
from mmrev.models.pretrained import Pretrained, initialization, load_weights  # noqa: E402
from mmrev.problems import ProblemError  # noqa: E402
from support import toy_detection  # noqa: E402
from support.commands import forked  # noqa: E402
from support.golden import GoldenRecord  # noqa: E402

CONFIGS = Path(__file__).parents[2] / 'configs'
HEADS = {'model.neck.out_channels': 16, 'model.rpn_head.in_channels': 16, 'model.rpn_head.feat_channels': 16,
         'model.roi_head.bbox_roi_extractor.out_channels': 16, 'model.roi_head.bbox_head.in_channels': 16,
         'model.roi_head.bbox_head.fc_out_channels': 8}
MASK = {'model.roi_head.mask_roi_extractor.out_channels': 16, 'model.roi_head.mask_head.in_channels': 16,
        'model.roi_head.mask_head.conv_out_channels': 16}
VIT = {'model.backbone.arch': dict(_delete_=True, embed_dims=768, num_layers=1, num_heads=12, feedforward_channels=96)}
SWIN = {'model.backbone.arch': dict(_delete_=True, embed_dims=96, depths=(1, 1, 1, 1), num_heads=(3, 3, 3, 3))}
DETECTORS = {
    'inplace_abn/{}_iabn-r50_fpn': {}, 'parameter_free/{}_pf-r50-hybrid_fpn': {}, 'revbifpn/_{}_revbifpn': {},
    'revswin/{}_revswin-t_fpn': SWIN, 'revvit/{}_revvit-b_sfp': VIT}
BASES = {
    **{name.format('faster_rcnn'): {**HEADS, **small} for name, small in DETECTORS.items()},
    **{name.format('mask_rcnn'): {**HEADS, **MASK, **small} for name, small in DETECTORS.items()},
    **dict.fromkeys(['inplace_abn/_iabn_in1k', 'parameter_free/pf-resnet50-hybrid_4xb256_in1k',
                     'parameter_free/pit-s-max_4xb256_in1k', 'parameter_free/pf-vit-s-max_4xb256_in1k',
                     'revbifpn/revbifpn-s0_8xb128_in1k', 'revvit/_revvit_in1k'], {}),
}
PARTS = {'backbone': 'model.backbone.init_cfg.checkpoint', 'whole': 'model.init_cfg.checkpoint'}


@pytest.fixture(autouse=True)
def quiet():
    """mmengine's record of the initialization is a line per parameter."""
    logger = MMLogger.get_instance('pretrained')
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def build(cfg):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
    return model


def child(name, folder, options=None, text=''):
    """A child of a base, small; `options` as typed after ``--cfg-options``."""
    (folder / 'child.py').write_text(f'_base_ = {str(CONFIGS / name) + ".py"!r}\n{text}\n')
    cfg = Config.fromfile(folder / 'child.py')
    cfg.merge_from_dict(copy.deepcopy(BASES.get(name, {})))
    cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in (options or {}).items()})
    return cfg


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The file of a trained model of a base: no weight in it is one that a model starts with."""
    files = {}

    def file_of(name):
        if name not in files:
            folder = tmp_path_factory.mktemp('trained')
            torch.manual_seed(0)
            cfg = child(name, folder)
            with DefaultScope.overwrite_default_scope(cfg.default_scope):
                state = MODELS.build(cfg.model).state_dict()
            for value in state.values():
                if value.is_floating_point():
                    value.add_(torch.rand_like(value).add_(1))
            torch.save(dict(state_dict=state, meta={}), folder / 'trained.pth')
            files.clear()  # one file is enough at a time
            files[name] = folder / 'trained.pth'
        return files[name]

    return file_of


def same(model, file, part):
    """Whether all weights of a part of the model are those in the file, and none is beyond it."""
    state = torch.load(file, map_location='cpu')['state_dict']
    equal = {name: torch.equal(value, state[name]) for name, value in model.state_dict().items()
             if value.is_floating_point() and 'data_preprocessor' not in name}
    backbone = [value for name, value in equal.items() if name.startswith('backbone.')]
    others = [value for name, value in equal.items() if not name.startswith('backbone.')]
    return all(backbone) and (all(others) if part == 'whole' else not any(others)) and bool(backbone and others)


@pytest.mark.parametrize('name', BASES)
def test_no_base_has_weights_to_start_from_but_a_place_for_them(name, tmp_path):
    cfg = child(name, tmp_path)
    assert cfg.model.init_cfg == dict(type='mmrev.Pretrained', checkpoint=None)
    assert cfg.model.backbone.init_cfg == dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')
    assert 'pretrained' not in cfg


def ways(name, part, source, folder):
    """Both ways to name a checkpoint for a part of a base: a child config and an option."""
    inner = f'init_cfg=dict(checkpoint={source!r})'
    text = f'model = dict({inner})' if part == 'whole' else f'model = dict(backbone=dict({inner}))'
    return child(name, folder, text=text), child(name, folder, {PARTS[part]: source})


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in BASES if 'mask_rcnn' not in name or 'revbifpn' in name])
def test_the_weights_are_in_the_model_by_a_child_config_and_by_an_option(name, trained, tmp_path, address):
    file = trained(name)
    (tmp_path / 'trained.pth').symlink_to(file)
    torch.save(dict(state_dict=dict(other=torch.zeros(1))), tmp_path / 'wrong.pth')
    for part in PARTS:
        model = build(ways(name, part, str(file), tmp_path)[0])
        assert same(model, file, part)
        module = model if part == 'whole' else model.backbone
        for source, way in ((str(file), 1), (f'{address}/trained.pth', 0), (str(tmp_path / 'wrong.pth'), 0),
                            (f'{address}/wrong.pth', 1)):  # into the model that has been built
            cfg = ways(name, part, source, tmp_path)[way].model
            with torch.no_grad():
                next(module.parameters()).zero_()
            with pytest.raises(ProblemError, match='no weight of this') if 'wrong' in source else nullcontext():
                initialize(module, (cfg if part == 'whole' else cfg.backbone).init_cfg)
            assert same(model, file, part) != ('wrong' in source)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['revbifpn/faster_rcnn_revbifpn_s0_digits', 'revvit/revvit_digits'])
@pytest.mark.parametrize('part', PARTS)
def test_digits_configs_take_them_the_same_way(name, part, trained, tmp_path):
    assert same(build(child(name, tmp_path, {PARTS[part]: str(trained(name))})), trained(name), part)


def test_without_weights_a_model_starts_as_if_nothing_were_said(tmp_path):
    cfg = child('revvit/_revvit_in1k', tmp_path)
    told = cfg.copy()
    del told.model['init_cfg'], told.model.backbone['init_cfg']
    models = []
    for one in (cfg, told):
        torch.manual_seed(0)
        models.append(build(one).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[1])
    assert models[0]['backbone.pos_embed'].std() > 0.01  # which is zero before it is initialized


@pytest.fixture
def address(tmp_path, monkeypatch):
    """Of a server with the files of `tmp_path`; torch keeps downloads in an empty folder."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, 'log_message', lambda *args: None)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'kept'))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize('part', PARTS)
@pytest.mark.parametrize('name', ['revbifpn/_faster_rcnn_revbifpn', 'revbifpn/_mask_rcnn_revbifpn',
                                  'revbifpn/revbifpn-s0_8xb128_in1k'])
def test_the_name_of_published_weights_gives_them_converted(name, part, address, tmp_path, monkeypatch):
    file = tmp_path / 'revbifpn_s0.pth.tar'
    torch.save({key: value.float() for key, value in GoldenRecord('revbifpn_s0').state_dict().items()}, file)
    model = published.Model('a-name', 'configs/revbifpn/a.py', (), f'{address}/{file.name}',
                            published.sha256_of(str(file)))
    monkeypatch.setattr(published, 'models', lambda: (model, ))
    ours = convert_state_dict(torch.load(file))
    state = build(child(name, tmp_path, {PARTS[part]: 'mmrev://a-name'})).state_dict()
    weights = [key for key in state if key.startswith('backbone.') and 'num_batches' not in key]
    assert weights and all(torch.equal(state[key], ours[key]) for key in weights)


@pytest.mark.parametrize('size', ['s', 'b'])
def test_revvit_loads_by_name_what_mmpretrain_published(size, tmp_path, monkeypatch):
    """With a file in mmpretrain's layout, in the folder of downloads under the published name."""
    from mmpretrain import get_model
    from mmpretrain.registry import MODELS as THEIRS

    import mmrev.apis  # noqa: F401
    known = published.find_model(f'revvit-{size}_mmrev_in1k')
    theirs_name = dict(s='small', b='base')[size]
    assert f'revvit-{theirs_name}_3rdparty' in known.url and f'-{known.sha256}.pth' in known.url
    theirs = Config.fromfile(Config._get_cfg_path(f'mmpretrain::revvit/revvit-{theirs_name}_8xb256_in1k.py', '')[0])
    theirs.model.backbone.arch = small = dict(embed_dims=384, num_layers=2, num_heads=6, feedforward_channels=384)
    theirs.model.head.in_channels = 768
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        theirs = THEIRS.build(theirs.model).eval()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.05)
    file = tmp_path / 'hub' / 'checkpoints' / known.url.rpartition('/')[2]
    file.parent.mkdir(parents=True)
    torch.save(dict(state_dict=theirs.state_dict(), meta={}), file)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    digits = published.sha256_of(str(file))[:8]
    monkeypatch.setattr(published, 'models', lambda: (known._replace(sha256=digits), ))
    ours = get_model(known.name, pretrained=True, backbone=dict(arch=dict(small, _delete_=True)),
                     head=dict(in_channels=768)).eval()
    x = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(published, 'models', lambda: (known, ))
    with pytest.raises(ProblemError, match='not their content'):
        get_model(known.name, pretrained=True)


@pytest.mark.parametrize('size', ['small', 'base'])
def test_the_recipe_of_revvit_is_that_of_mmpretrain(size):
    theirs = Config.fromfile(Config._get_cfg_path(f'mmpretrain::revvit/revvit-{size}_8xb256_in1k.py', '')[0])
    ours = Config.fromfile(CONFIGS / f'revvit/revvit-{size}_8xb256_in1k.py')
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_pipeline', 'test_pipeline'):
        plain = [str(cfg[key]).replace("'_scope_': 'mmpretrain'", '').replace(', }', '}') for cfg in (ours, theirs)]
        assert plain[0] == plain[1], key
    assert ours.train_dataloader.batch_size == theirs.train_dataloader.batch_size == 256
    assert ours.model.backbone.get('drop_path_rate', 0) == theirs.model.backbone.get('drop_path_rate', 0) == 0
    assert ours.model.train_cfg.augments[0].alpha == theirs.model.train_cfg.augments[0].alpha


@pytest.mark.parametrize('name', [name for name in BASES if re.search('rcnn_(iabn|pf|revbifpn)', name)])
def test_statistics_are_kept_where_there_are_weights(name, tmp_path):
    cfg = child(name, tmp_path)
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert MODELS.build(cfg.model.backbone).norm_eval is False
        cfg.model.backbone.init_cfg.checkpoint = 'some.pth'
        assert MODELS.build(cfg.model.backbone).norm_eval is True
        cfg.model.backbone.norm_eval = False
        assert MODELS.build(cfg.model.backbone).norm_eval is False


RUN = '''
import sys
from mmengine.config import Config
from mmengine.runner import Runner
cfg = Config.fromfile(sys.argv[1])
cfg.merge_from_dict({'model.backbone.init_cfg.checkpoint': sys.argv[2]})
cfg.merge_from_dict(dict(work_dir=sys.argv[3], launcher='none', val_dataloader=None, val_evaluator=None, val_cfg=None,
                         test_dataloader=None, test_evaluator=None, test_cfg=None))
runner = Runner.from_cfg(cfg)
runner._init_model_weights()
import torch
state = torch.load(sys.argv[2])['state_dict']
name = next(name for name in state if name.startswith('backbone.') and name.endswith('conv.weight'))
assert torch.equal(runner.model.state_dict()[name], state[name])
'''


@pytest.mark.subprocess
def test_tools_of_mmdet_that_know_nothing_of_mmrev_start_from_the_weights(tmp_path, trained):
    name = 'revbifpn/_faster_rcnn_revbifpn'
    (tmp_path / 'run.py').write_text(RUN)
    base = f"__import__('mmrev').config_path('{name}.py')"
    (tmp_path / 'mine.py').write_text(
        f'_base_ = {base}\nmodel = dict(neck=dict(out_channels=16), rpn_head=dict(in_channels=16, feat_channels=16), '
        'roi_head=dict(bbox_roi_extractor=dict(out_channels=16), bbox_head=dict(in_channels=16, fc_out_channels=8)))\n')
    done = subprocess.run([sys.executable, 'run.py', 'mine.py', str(trained(name)), 'run'], cwd=tmp_path,
                          capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(CONFIGS.parent)})
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if 'Loaded' in line]
    assert len(said) == 1 and 'tensors of RevBiFPN from' in said[0] and 'missing' not in said[0]
    torch.save(dict(state_dict=dict(other=torch.zeros(1))), tmp_path / 'other.pth')
    status, errors = forked('python', 'run.py', 'mine.py', 'other.pth', 'run', cwd=tmp_path)
    assert status != 0 and '`other.pth` holds no weight of this RevBiFPN' in errors


def test_the_config_in_the_documents_names_the_weights(tmp_path):
    import mmrev.registry  # noqa: F401  makes `mmrev::` known
    text = (CONFIGS.parent / 'docs/pretrained.md').read_text(encoding='utf-8').split('## Start from them')[1]
    option = re.search(r'--cfg-options (\S+)=(\S+)', text)
    (tmp_path / 'mine.py').write_text(re.search(r'```python\n(.*?)```', text, re.DOTALL).group(1))
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert option.group(1) == PARTS['backbone'] and cfg.model.backbone.init_cfg.checkpoint == option.group(2)
    assert published.find_model(option.group(2).removeprefix('mmrev://')).url


DETECTOR_CONFIGS = [path for pattern in ('faster*', 'mask*', 'cascade*') for path in CONFIGS.glob(f'*/{pattern}.py')
                    if 'digits' not in path.stem]


@pytest.mark.parametrize('path', DETECTOR_CONFIGS, ids=lambda path: path.stem)
def test_a_detector_says_in_its_first_lines_that_it_starts_from_random_weights(path):
    lines = path.read_text(encoding='utf-8').split('"""')[1].splitlines()
    assert 'random weights unless told otherwise' in lines[2]
    assert lines[3].startswith('--cfg-options model.backbone.init_cfg.checkpoint=')


def test_the_log_says_where_a_backbone_starts_from_random_weights(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr('mmrev.models.pretrained.print_log', lambda text, **kwargs: said.append(text))
    build(child('revbifpn/_faster_rcnn_revbifpn', tmp_path))
    assert len(said) == 1 and said[0].startswith('RevBiFPN starts from random weights')
    assert '--cfg-options model.backbone.init_cfg.checkpoint=' in said[0]


@pytest.mark.slow
@pytest.mark.parametrize('content, message', [
    (dict(state_dict=dict(other=torch.zeros(1))), 'other.pth` holds no weight of this RevBiFPN'),
    (dict(epoch=3), 'other.pth` holds no weights'),
])
def test_a_wrong_file_at_an_address_ends_the_run_in_two_lines(content, message, address, tmp_path, monkeypatch, capfd):
    """Of a backbone whose config has no `init_cfg`."""
    toy_detection.write_dataset(tmp_path / 'data', num_images=2)
    (tmp_path / 'toy.py').write_text(toy_detection.config_text(tmp_path / 'data'))
    torch.save(content, tmp_path / 'other.pth')
    monkeypatch.chdir(tmp_path)
    option = f'model.backbone.init_cfg.checkpoint={address}/other.pth'
    assert main(['train', 'toy.py', '--cfg-options', option, f'visualizer.name={tmp_path.name}']) == 2
    said = capfd.readouterr().err.partition(': error: ')[2].strip().splitlines()
    assert len(said) == 2 and message in said[0] and not list((tmp_path / 'work_dirs').rglob('*.pth'))


def test_a_damaged_download_is_named_with_the_file_to_remove(address, tmp_path):
    torch.save(Net().state_dict(), tmp_path / 'net.pth')
    (tmp_path / 'net.pth').write_bytes((tmp_path / 'net.pth').read_bytes()[:500])
    with pytest.raises(ProblemError, match='net.pth` could not be loaded') as error:
        Pretrained(f'{address}/net.pth')(Net())
    cached = tmp_path / 'kept/hub/checkpoints/net.pth'
    assert f'Remove {cached}' in error.value.fix and cached.is_file()
    with pytest.raises(ProblemError, match='404') as error:
        Pretrained(f'{address}/missing.pth')(Net())
    assert 'Check the address' in error.value.fix


class Net(nn.Module):
    """Convolution, norm and linear layer."""

    def __init__(self, channels=4):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), nn.Linear(channels, 2)


def test_the_line_says_how_many_tensors_came_and_what_is_missing_or_left_over():
    state = Net().state_dict()
    whole = {f'module.backbone.{name}': value for name, value in state.items()}
    assert load_weights(Net(), dict(state_dict=whole), 'a.pth', 'backbone.') == \
        'Loaded 8 of the 8 tensors of Net from a.pth'
    assert load_weights(Net(), state, 'a.pth', 'backbone.') == 'Loaded 8 of the 8 tensors of Net from a.pth'
    for place in ('model', 'model_state_dict', 'state_dict_ema'):  # of other trainers
        assert load_weights(Net(), dict({place: state}, epoch=3), 'a.pth').startswith('Loaded 8 of the 8 tensors')
    state = dict(state, **{f'head.{i}': torch.zeros(1) for i in range(5)})
    del state['conv.bias']
    state['fc.weight'] = torch.zeros(7, 4)
    assert load_weights(Net(), state, 'a.pth') == (
        'Loaded 6 of the 8 tensors of Net from a.pth; missing: conv.bias; left over: head.0, head.1, head.2 and 2 '
        'more; of another shape: fc.weight')


@pytest.mark.parametrize('content, message', [
    (dict(epoch=3, lr=0.1), 'holds no weights: there is no tensor'),
    (dict(state_dict={'conv.weight': 3.0}), 'holds no weights: there is no tensor'),
    (dict(state_dict={}), 'holds no weights: there is no tensor'),
    ([1, 2], 'holds no weights: there is no tensor'),
    (dict(state_dict=dict(other=torch.zeros(1))), 'holds no weight of this Net: its names are other'),
    (dict(state_dict={'bn.num_batches_tracked': torch.tensor(3)}), 'holds no weight of this Net'),
    (dict(state_dict=Net(8).state_dict()), r'of another Net: `conv.weight` is of shape \[8, 3, 3, 3\] there, and of '
     r'shape \[4, 3, 3, 3\] in this config'),
    (dict(Net().state_dict(), **{'fc.bias': torch.tensor([1., torch.nan])}),
     'a.pth` holds no real numbers for `fc.bias`, but NaN or infinity'),
    (dict(Net().state_dict(), **{'fc.bias': torch.tensor([1, 2])}), 'for `fc.bias`, but torch.int64'),
])
def test_a_checkpoint_that_gives_the_model_nothing_is_refused(content, message):
    with pytest.raises(ProblemError, match=message):
        load_weights(Net(), content, 'a.pth')


def test_a_backbone_takes_a_checkpoint_without_a_type():
    default = [dict(type='Constant', layer='Conv2d', val=1.)]
    given = dict(checkpoint='a.pth')
    assert initialization(given, default) == [*default, dict(type='mmrev.Pretrained', prefix='backbone.', **given)]
    assert initialization(None, default) == [*default, dict(type='mmrev.Pretrained', prefix='backbone.')]
    assert initialization(dict(type='Kaiming'), default) == [dict(type='Kaiming')]


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
def test_the_initializer_of_mmengine_becomes_one_that_refuses_a_wrong_file(kind):
    default = [dict(type='Constant', layer='Conv2d', val=1.)]
    ours = dict(type='mmrev.Pretrained', prefix='backbone.', checkpoint='a.pth')
    theirs = dict(type=kind, checkpoint='a.pth')
    assert initialization(theirs, default) == [*default, ours]
    assert initialization([dict(type='Kaiming'), theirs], default) == [dict(type='Kaiming'), ours]


def test_parts_that_are_no_module_of_mmengine_are_not_initialized_after_loading(tmp_path):

    class Part(nn.Linear):

        def init_weights(self):
            nn.init.zeros_(self.weight)

    from mmengine.model import BaseModule

    class Whole(BaseModule):

        def __init__(self, init_cfg):
            super().__init__(init_cfg)
            self.part = Part(2, 2)

    torch.save({'part.weight': torch.ones(2, 2), 'part.bias': torch.ones(2)}, tmp_path / 'a.pth')
    model = Whole(dict(type=Pretrained, checkpoint=str(tmp_path / 'a.pth')))
    model.init_weights()
    assert torch.equal(model.part.weight, torch.ones(2, 2))
