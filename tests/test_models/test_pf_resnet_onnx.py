"""PF-ResNet classifiers as ONNX: what onnxruntime computes is what PyTorch does, for batches and images of any size."""
import numpy as np
import pytest
import torch
from torch import nn

from mmrev.models.backbones import PFResNet

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')


class Classifier(nn.Module):

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(backbone.channels[-1], 10)

    def forward(self, x):
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


@pytest.mark.parametrize('norm_cfg', [None, *(dict(type=f'mmrev.{norm}', activation='leaky_relu')
                                              for norm in ('BatchNormAct', 'InPlaceABN'))],
                         ids=['BN', 'BatchNormAct', 'InPlaceABN'])
@pytest.mark.parametrize('operation', ['conv', 'max', 'hybrid'])
def test_the_exported_classifier_computes_the_same(operation, norm_cfg, tmp_path, monkeypatch):
    monkeypatch.setitem(PFResNet.arch_zoo, 50, (2, 2, 2, 2))
    torch.manual_seed(0)
    model = Classifier(PFResNet(50, operation, width=0.25, out_indices=(3, ), norm_cfg=norm_cfg)).eval()
    image, file = torch.randn(1, 3, 64, 64), str(tmp_path / 'model.onnx')
    with torch.no_grad():
        torch.onnx.export(model, (image, ), file, input_names=['image'], output_names=['scores'],
                          dynamic_axes=dict(image={0: 'batch', 2: 'height', 3: 'width'}, scores={0: 'batch'}),
                          **({'dynamo': False} if torch.__version__ >= (2, 5) else {}))
    operators = {node.op_type for node in onnx.load(file).graph.node}
    assert 'MaxPool' in operators and not operators & {'Max', 'Slice', 'ScatterND'}
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    for shape in ((1, 3, 64, 64), (3, 3, 61, 75)):
        images = torch.randn(shape)
        scores, = session.run(None, dict(image=images.numpy()))
        with torch.no_grad():
            np.testing.assert_allclose(scores, model(images).numpy(), rtol=1e-3, atol=1e-4)
