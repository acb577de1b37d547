"""The hosts' networks, as configs have them: the same to rounding, from the share of bytes that docs/memory.md says."""
import sys
from pathlib import Path

import pytest
import torch

import mmrev

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
from any_network import NETWORKS, build, measure_error  # noqa: E402

KEPT = {  # shares at level 'cheap', of the bytes of the stock network
    'YOLOX-s CSPDarknet': 0.34, 'RTMDet-tiny CSPNeXt': 0.38, 'EfficientNet-B0': 0.36, 'MobileNetV2': 0.38,
    'ResNet-50': 0.65, 'VGG-11 BN': 0.55, 'DenseNet-121': 0.35, 'Swin-T': 0.68, 'ConvNeXt-T': 0.61, 'DeiT-S': 0.65}


@pytest.mark.slow
@pytest.mark.parametrize('name', KEPT)
def test_no_more_is_kept_than_promised(name):
    network = NETWORKS[name]
    model = build(network).to(network.device)
    report = mmrev.save_memory(model)
    model(torch.zeros(1, 3, network.size, network.size, device=network.device))
    assert report.kept <= KEPT[name] * report.plain


@pytest.mark.slow
@pytest.mark.parametrize('form', ['cheap', 'blocks'])
@pytest.mark.parametrize('name', ['YOLOX-s CSPDarknet', 'MobileNetV2', 'EfficientNet-B0', 'ResNet-18', 'DenseNet-121',
                                  'ShuffleNetV2', 'Swin-T', 'ConvNeXt-T', 'DeiT-S'])
def test_outputs_gradients_and_statistics_are_those_of_the_stock_network(name, form):
    low = ('float32', 'bfloat16') if name in ('YOLOX-s CSPDarknet', 'ResNet-18') else ()
    found = measure_error(NETWORKS[name], form, 0 if 'img_size' in NETWORKS[name].config else 64, low)
    assert found.pop('error') <= 1e-10 and all(error <= 1 for error in found.values())
