"""mmengine compiles the whole training step; reversible sequences within it run eagerly."""
import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import mmrev

CONFIGS = ['revvit/revvit_digits.py', 'revswin/revswin_digits.py', 'revmvit/revmvit_digits.py']


def losses(model, step):
    wrapper, found = OptimWrapper(torch.optim.SGD(model.parameters(), 0.01)), []
    for seed in range(3):
        torch.manual_seed(seed)
        images = [torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8) for _ in range(4)]
        data = dict(inputs=images, data_samples=[DataSample().set_gt_label(i) for i in range(4)])
        found.append(float(step(data, wrapper)['loss'].detach()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize('config', CONFIGS)
def test_a_compiled_training_step_trains_as_an_eager_one(config):
    config = Config.fromfile(mmrev.config_path(config))
    config.model.setdefault('data_preprocessor', dict(config.data_preprocessor, type='mmpretrain.ClsDataPreprocessor'))
    torch.manual_seed(0)
    model = MODELS.build(config.model).train()
    twin = copy.deepcopy(model)
    expected = losses(twin, twin.train_step)
    torch._dynamo.reset()
    assert losses(model, torch.compile(model.train_step, backend='eager')) == pytest.approx(expected, rel=1e-3)
