"""What docs/export.md says of each backbone and exporter."""
import re
import warnings
from pathlib import Path

import pytest
import torch
from backbones import BACKBONES, build
from torch import nn

TEXT = (Path(__file__).parents[2] / 'docs/export.md').read_text(encoding='utf-8')
TABLE = [[cell.strip() for cell in line.split('|')[1:-1]] for line in TEXT.splitlines() if line.startswith('|')]
ROWS = {name: cells for name, *cells in TABLE[2:]}
FORMS = {'PFResNet': 'PFResNet, hybrid'}  # the form of `BACKBONES` that stands for a row
IMAGES = {'batch': torch.randn(3, 3, 64, 96), 'size': torch.randn(3, 3, 128, 96)}


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


def test_the_table_has_every_backbone():
    assert set(ROWS) == {name.split(', ')[0] for name in BACKBONES} and len(EXPORTERS) == 4


def takes(exporter, model, image, what, file):
    """Whether what is exported with these dims left open computes what the model does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            exported = exporter(model, torch.randn(2, 3, 64, 96), (0, ) if what == 'batch' else (0, 2, 3), str(file))
            output = exported(image)
    except pytest.skip.Exception:
        raise
    except Exception:  # of the exporter, or of a guard in what it made
        return False
    expected = model(image)
    return output.shape == expected.shape and bool((output - expected).abs().max() <= 1e-4 * expected.abs().max())


@pytest.mark.parametrize('how', EXPORTERS)
@pytest.mark.parametrize('name', ROWS)
def test_a_backbone_exports_as_the_table_says(name, how, tmp_path):
    model = Last(build(FORMS.get(name, name))).eval()
    for p in model.parameters():
        p.data.mul_(0.1)
    said = re.split(', ', ROWS[name][list(EXPORTERS).index(how)])
    with torch.no_grad():
        for what, image in IMAGES.items():
            assert takes(EXPORTERS[how], model, image, what, tmp_path / f'{what}.onnx') == (what in said), what
