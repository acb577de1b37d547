"""What the metafiles say, held against the configs and the models themselves."""
import re
from pathlib import Path

import mmdet
import mmpretrain
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope

from mmrev.analysis import count_operations
from mmrev.checkpoints import published
from mmrev.registry import MODELS

ROOT = Path(__file__).parents[2]
ENTRIES = yaml.safe_load((ROOT / 'configs/revbifpn/metafile.yml').read_text())['Models']
IABN = yaml.safe_load((ROOT / 'configs/inplace_abn/metafile.yml').read_text())['Models']
INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
OURS = [entry for name in INDEX for entry in yaml.safe_load((ROOT / name).read_text())['Models']]
CLASSIFIERS = [entry for entry in ENTRIES if 'Weights' in entry]
COUNTED = ('s0', 's2')  # the larger ones take long
SIZES = [f's{i}' for i in range(7)]
SEGMENTATION = ('Semantic Segmentation', 'Panoptic Segmentation')


def test_every_size_of_every_kind_is_listed():
    patterns = ('revbifpn-{}_3rdparty_in1k', 'faster_rcnn_revbifpn_{}', 'mask_rcnn_revbifpn_{}',
                'faster-rcnn_revbifpn-{}_8xb2-2x_coco', 'mask-rcnn_revbifpn-{}_8xb2-2x_coco',
                'cascade-mask-rcnn_revbifpn-{}_8xb2-20e_coco')
    listed = [entry['Name'] for entry in ENTRIES if entry['Results'][0]['Task'] not in SEGMENTATION]
    assert listed == [pattern.format(size) for pattern in patterns for size in SIZES]


@pytest.mark.parametrize('entry', ENTRIES, ids=lambda entry: entry['Name'])
def test_every_entry_names_a_config_of_its_size(entry):
    cfg = Config.fromfile(ROOT / entry['Config'])
    assert cfg.model.backbone.arch == re.search(r'revbifpn[-_](s\d)', entry['Name']).group(1)


@pytest.mark.slow
@pytest.mark.parametrize('entry', CLASSIFIERS, ids=lambda entry: entry['Name'])
def test_parameters_operations_and_resolution_are_those_of_the_config(entry):
    cfg, facts = Config.fromfile(ROOT / entry['Config']), entry['Metadata']
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model).eval()
        image = torch.zeros(1, 3, facts['Resolution'], facts['Resolution'])
    assert sum(p.numel() for p in model.parameters()) == facts['Parameters']
    if cfg.model.backbone.arch in COUNTED:
        assert count_operations(model, image)[''].published == facts['FLOPs']
    crop, = (step['crop_size'] for step in cfg.test_pipeline if 'CenterCrop' in step['type'])
    assert crop == facts['Resolution']


def test_every_published_file_has_its_own_name_and_hash():
    assert len({entry['Weights'].rpartition('/')[2] for entry in CLASSIFIERS}) == len(CLASSIFIERS) == 7
    assert len({entry['Weights SHA256'] for entry in CLASSIFIERS}) == 7
    assert all(re.fullmatch('[0-9a-f]{64}', entry['Weights SHA256']) for entry in CLASSIFIERS)


@pytest.mark.parametrize('host', [mmdet, mmpretrain])
def test_no_name_is_one_of_the_hosts(host):
    folder = Path(host.__file__).parent / '.mim'
    metafiles = [folder / name for name in yaml.safe_load((folder / 'model-index.yml').read_text())['Import']]
    theirs = {name.lower() for path in metafiles for name in re.findall(r'Name: *(\S+)', path.read_text())}
    assert theirs and not theirs & {entry['Name'].lower() for entry in OURS}


def test_names_say_third_party_where_its_weights_are_published_and_nowhere_else():
    for entry in OURS:
        published_by_others = 'Weights' in entry or 'Published Weights' in entry
        assert '_3rdparty_' not in entry['Name'] or published_by_others, entry['Name']


def test_the_package_reads_the_same():
    keys = ('Name', 'Config', 'Weights', 'Weights SHA256', 'Published Weights', 'Weights MD5')
    assert [(model.name, model.config, model.url, model.sha256, model.page, model.md5) for model in published.models()
            ] == [tuple(entry.get(key) for key in keys) for entry in OURS]


@pytest.mark.parametrize('entry', [entry for entry in IABN if entry['Results'][0]['Task'] not in SEGMENTATION],
                         ids=lambda entry: entry['Name'])
def test_every_network_with_inplace_abn_names_its_config(entry):
    cfg, facts = Config.fromfile(ROOT / entry['Config']), entry['Metadata']
    name = entry['Name']
    norms = {'-stdbn': 'BatchNormAct', '-iabn_': 'InPlaceABN'}
    norm = next((norms[key] for key in norms if key in name), 'InPlaceABNSync')
    assert cfg.model.backbone.norm_cfg.type == f'mmrev.{norm}'
    assert str(cfg.model.backbone.depth) in name
    if 'rcnn' in name:
        assert ('mask' in name) == ('mask_head' in cfg.model.roi_head)
        return
    assert 8 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == facts['Batch Size']
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmpretrain'):
        assert sum(p.numel() for p in MODELS.build(cfg.model).parameters()) == facts['Parameters']


def test_the_nine_published_files_have_an_address_and_an_md5_each():
    published_ones = [entry for entry in IABN if 'Published Weights' in entry]
    assert len(published_ones) == len({entry['Published Weights'] for entry in published_ones}) == 9
    assert len({entry['Weights MD5'] for entry in published_ones}) == 9
    assert all(re.fullmatch('[0-9a-f]{32}', entry['Weights MD5']) for entry in published_ones)
    assert all(len(entry['Results'][0]['Metrics']) == 6 for entry in published_ones)


def test_mmengine_knows_the_weights_of_a_config():
    cfg = get_config('mmrev::revbifpn/revbifpn-s3_8xb128_in1k.py', pretrained=True)
    assert cfg.model_path.endswith('/revbifpn_s3.pth.tar') and cfg.model.backbone.arch == 's3'
