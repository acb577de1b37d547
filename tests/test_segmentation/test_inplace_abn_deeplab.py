"""InPlace-ABN's published segmentation network, in mmseg's segmentor built from the config, and its snapshot."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmrev.checkpoints.conversion import convert_file
from mmrev.checkpoints.families.inplace_abn_deeplab import convert_state_dict
from mmrev.problems import ProblemError
from support.golden import GoldenRecord, assert_agrees

pytest.importorskip('mmseg')
CONFIG = Path(__file__).parents[2] / 'configs' / 'inplace_abn' / 'deeplabv3_iabn-wrn38_8xb2-100k_vistas-672x672.py'
RECORD = 'iabn_deeplab_wider_resnet16_a2'


def segmentor(**head):
    cfg = Config.fromfile(CONFIG).model
    cfg.backbone.update(depth=16)
    cfg.decode_head.update(channels=64, hidden_channels=64, num_classes=19, pooling_size=(5, 6), **head)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg)
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.
    return model


@pytest.mark.slow
def test_golden_record():
    assert_agrees(segmentor(), GoldenRecord(RECORD), convert_state_dict)


def test_the_published_snapshot_is_converted_and_its_license_said(tmp_path):
    """It holds a state dict per part."""
    weights = {key: torch.zeros(1).expand(shape) if shape else torch.tensor(0)
               for key, shape in GoldenRecord(RECORD).shapes.items()}
    parts = {}
    for key, value in weights.items():
        part, _, name = key.partition('.')
        parts.setdefault(part, {})[name] = value
    torch.save(dict(state_dict=parts), tmp_path / 'snapshot.pth.tar')
    with pytest.raises(ProblemError, match='none of the published files'):
        convert_file(str(tmp_path / 'snapshot.pth.tar'), str(tmp_path / 'out.pth'))
    said = convert_file(str(tmp_path / 'snapshot.pth.tar'), str(tmp_path / 'out.pth'), any_hash=True)
    assert 'CC BY-NC-SA' in said
    content = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert content['meta']['family'] == 'inplace_abn_deeplab' and 'CC BY-NC-SA' in content['meta']['license']
    with torch.device('meta'):
        expected = segmentor().state_dict()
    assert {key: value.shape for key, value in content['state_dict'].items()} == {
        key: value.shape for key, value in expected.items()}


@pytest.mark.parametrize('key', ['head.map_bn2.weight', 'neck.weight', 'body.mod2.foo'])
def test_a_foreign_key_is_refused(key):
    with pytest.raises(KeyError, match='is not a key of'):
        convert_state_dict({'body.mod2.block1.bn1.weight': 0, key: 0})


def test_the_window_in_evaluation_is_the_moving_average_padded_by_replication():
    """On a map that is smaller than the window in one direction."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        head = MODELS.build(dict(type='mmrev.InPlaceABNDeepLabHead', in_channels=1, channels=2, hidden_channels=2,
                                 num_classes=3, pooling_size=(4, 9))).eval()
    x = torch.randn(1, 1, 7, 5)
    pooled = head._pool(x)
    assert pooled.shape == x.shape
    for row, top in enumerate([0, 0, 1, 2, 3, 3, 3]):  # 4 rows: one before, two after
        torch.testing.assert_close(pooled[0, 0, row], x[0, 0, top:top + 4].mean().expand(5))
    assert head.train()._pool(x).shape == (1, 1, 1, 1)
