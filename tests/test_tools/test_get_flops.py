"""Parameters and MACs: of tiny networks, counted by hand; of the published sizes, as published."""
import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import nn

from mmrev.analysis import count_operations

ROOT = Path(__file__).parents[2]
PARTS = ('backbone', 'neck', 'rpn_head', 'roi_head')
PUBLISHED = [  # resolution, parameters and MACs of the classifiers S0 ... S6 (Chiley et al. 2022)
    (224, 3_419_196, 308_039_716),
    (256, 5_112_300, 616_781_508),
    (256, 10_576_528, 1_370_329_000),
    (288, 19_574_184, 3_330_873_312),
    (320, 48_687_336, 10_632_222_080),
    (352, 81_998_976, 21_848_995_912),
    (352, 142_307_972, 38_084_434_748),
]


@pytest.fixture(scope='module')
def tool():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location('get_flops', ROOT / 'tools' / 'analysis_tools' / 'get_flops.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Tiny(nn.Module):
    """Everything that is counted, and something that is not."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()  # (1, 8, 6, 6)
        x = F.interpolate(x, scale_factor=2, mode='bilinear')  # (1, 8, 12, 12)
        return self.fc(x.mean((2, 3)))


def test_a_tiny_network_is_counted_as_by_hand():
    counts = count_operations(Tiny(), torch.zeros(1, 4, 12, 12))
    conv, linear = 8 * 6 * 6 * 3 * 3 * 4 // 2, 8 * 5
    bias, norm, interpolation = 8 * 6 * 6, 2 * 8 * 6 * 6, 11 * 8 * 12 * 12
    assert counts['conv'] == (8 * 2 * 9 + 8, conv, conv + bias)
    assert counts['norm'] == (16, 0, norm)
    assert counts['fc'] == (45, linear, linear)
    assert counts[''] == (8 * 2 * 9 + 8 + 16 + 45, conv + linear, conv + linear + bias + norm + interpolation)


@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_attention_is_counted_on_every_device(device):
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, device=device)
    counts = count_operations(layer, torch.zeros(1, 10, 16, device=device))
    projections, products, mlp = 4 * 10 * 16 * 16, 2 * 10 * 10 * 16, 2 * 10 * 16 * 32
    assert counts[''].macs == projections + products + mlp
    assert counts['self_attn'].macs == projections + products
    assert counts[''].published == counts[''].macs + 2 * 2 * 10 * 16  # two norms


def test_deterministic_algorithms_change_no_count():
    with torch.device('meta'):
        layer, x = nn.Upsample(scale_factor=2, mode='bilinear'), torch.zeros(1, 4, 6, 6)
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert count_operations(layer, x)[''].published == 11 * 4 * 12 * 12
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()


def test_what_an_autograd_function_does_within_is_counted():

    class Product(torch.autograd.Function):

        @staticmethod
        def forward(ctx, x, weight):
            return x @ weight

    class Layer(nn.Module):

        def forward(self, x):
            return Product.apply(x, x.new_zeros(4, 6))

    assert count_operations(Layer(), torch.zeros(3, 4))[''].macs == 3 * 4 * 6


def test_counting_leaves_the_model_as_it_was():
    model = Tiny()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_operations(model, torch.ones(2, 4, 12, 12))
    assert model.training and model.conv.training and not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize('size', range(7))
def test_the_classifiers_have_the_published_parameters_and_macs(tool, size):
    cfg = Config.fromfile(ROOT / 'configs' / 'revbifpn' / f'revbifpn-s{size}_8xb128_in1k.py')
    resolution, parameters, macs = PUBLISHED[size]
    assert tool.default_shape(cfg) == (resolution, resolution)
    counts = tool.count_config(cfg, (resolution, resolution))
    assert (counts[''].parameters, counts[''].published) == (parameters, macs)


@pytest.mark.slow
def test_a_detector_is_counted_with_all_its_proposals(tool, capsys):
    assert tool.main([str(ROOT / 'configs' / 'revbifpn' / 'faster_rcnn_revbifpn_s0.py')]) == 0
    rows = {row.split()[0]: row.split()[1:] for row in capsys.readouterr().out.splitlines()}
    first, second, classes, boxes = 7 * 7 * 256 * 1024, 1024 * 1024, 1024 * 81, 1024 * 80 * 4
    assert rows['roi_head.bbox_head'][1] == f'{1000 * (first + second + classes + boxes):,}'
    pyramid = sum(200 * 336 // 4**i for i in range(4)) + 12 * 21
    assert rows['rpn_head.rpn_conv'][1] == f'{pyramid * 9 * 256 * 256:,}'
    parameters = {part: int(row[0].replace(',', '')) for part, row in rows.items() if part in PARTS + ('total', )}
    assert parameters['total'] == sum(parameters[part] for part in PARTS)


def test_a_mistake_is_told_in_two_lines(tool, capsys):
    config = str(ROOT / 'configs' / 'revbifpn' / 'revbifpn-s0_8xb128_in1k.py')
    unknown = [config, '--cfg-options', 'model.backbone.arch=s9']
    for arguments, said in (['no.py'], 'no.py'), ([config, '--shape', '0', '7'], '--shape'), (unknown, 's9'):
        assert tool.main(arguments) == 2
        assert said in capsys.readouterr().err
