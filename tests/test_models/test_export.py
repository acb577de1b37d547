"""What docs/export.md says of each backbone and exporter."""
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from support.backbones import BACKBONES, build

pytestmark = pytest.mark.slow

TEXT = (Path(__file__).parents[2] / 'docs/export.md').read_text(encoding='utf-8')
TABLE = [[cell.strip() for cell in line.split('|')[1:-1]] for line in TEXT.splitlines() if line.startswith('|')]
ROWS = {name: cells for name, *cells in TABLE[2:]}
FORMS = {'PFResNet': 'PFResNet, hybrid'}  # the form of `BACKBONES` that stands for a row


class Last(nn.Module):
    """The coarsest level of a backbone."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, image):
        return self.backbone(image)[-1]


def trace(model, image, dims, file):
    return torch.jit.trace(model, image)


def export(model, image, dims, file):
    shapes = dict.fromkeys(dims, torch.export.Dim.AUTO)
    return torch.export.export(model, (image, ), dynamic_shapes=(shapes, )).module()


def onnx_of_trace(model, image, dims, file):
    pytest.importorskip('onnx')
    axes = {name: {dim: f'{name}{dim}' for dim in dims} for name in ('image', 'level')}
    torch.onnx.export(model, (image, ), file, input_names=['image'], output_names=['level'], dynamic_axes=axes,
                      **({'dynamo': False} if torch.__version__ >= (2, 5) else {}))
    return session(file)


def onnx_of_export(model, image, dims, file):
    pytest.importorskip('onnxscript')
    shapes = dict.fromkeys(dims, torch.export.Dim.AUTO)
    torch.onnx.export(model, (image, ), file, dynamic_shapes=(shapes, ), dynamo=True, verbose=False)
    return session(file)


def session(file):
    onnxruntime = pytest.importorskip('onnxruntime')
    found = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    return lambda image: torch.from_numpy(found.run(None, {found.get_inputs()[0].name: image.numpy()})[0])


EXPORTERS = dict(zip(TABLE[0][1:], (trace, export, onnx_of_trace, onnx_of_export)))
LONG = {(name, 'ONNX, `dynamo=True`') for name in ROWS if name != 'RevViT'} | {('RevBiFPN', '`torch.export`')}


def test_the_table_has_every_backbone():
    classes = {name.split(', ')[0] for name in BACKBONES}
    assert set(ROWS) == classes, f'docs/export.md needs a row for each backbone, with "batch, size" or "batch" ' \
        f'for each exporter; one table, but not the other, has {set(ROWS) ^ classes}'
    assert len(EXPORTERS) == 4


@pytest.mark.parametrize('name, how', [
    pytest.param(name, how, marks=pytest.mark.training if (name, how) in LONG else ())
    for name in ROWS for how in EXPORTERS])
def test_a_backbone_exports_as_the_table_says(name, how, tmp_path):
    model = Last(build(FORMS.get(name, name))).eval()
    for p in model.parameters():
        p.data.mul_(0.1)
    said = ROWS[name][list(EXPORTERS).index(how)].split(', ')
    dims, image = ((0, 2, 3), torch.randn(3, 3, 128, 96)) if 'size' in said else ((0, ), torch.randn(3, 3, 64, 96))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        exported = EXPORTERS[how](model, torch.randn(2, 3, 64, 96), dims, str(tmp_path / 'model.onnx'))
        output, expected = exported(image), model(image)
    assert 'batch' in said and output.shape == expected.shape
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
