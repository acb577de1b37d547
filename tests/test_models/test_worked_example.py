"""CONTRIBUTING.md's backbone, run from the page: it is short and passes the tests of every backbone."""
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import support.backbones
from mmrev.registry import MODELS
from mmrev.testing import assert_invertible, assert_same_gradients, bytes_per_sample
from support.images import image

from . import test_backbones as shared

PAGE = (Path(__file__).parents[2] / 'CONTRIBUTING.md').read_text(encoding='utf-8')
CODE, ROW = re.findall(r'^```python\n(.*?)^```', PAGE, re.DOTALL | re.MULTILINE)
NAME = 'mmrev.models.backbones.revnet'
ASKED = [test for name, test in vars(shared).items() if name.startswith('test_')
         and [*inspect.signature(test).parameters] == ['name'] and 'without_norm_eval' not in name]


@pytest.fixture(autouse=True)
def revnet(monkeypatch):
    """The class, as if the file and the row were where the page puts them."""
    module = ModuleType(NAME)
    module.__package__ = NAME.rpartition('.')[0]
    monkeypatch.setitem(sys.modules, NAME, module)
    exec(compile(CODE, 'CONTRIBUTING.md', 'exec'), module.__dict__)
    for name, entry in eval(f'dict({{{ROW}}})', vars(support.backbones)).items():
        monkeypatch.setitem(support.backbones.BACKBONES, name, entry)
    yield module.RevNet
    del MODELS.module_dict['RevNet']


def test_it_has_less_than_50_lines_of_code():
    lines = [line for line in CODE.splitlines() if line.strip() and not line.strip().startswith('#')]
    assert len(lines) < 50 and max(map(len, lines)) <= 120


def test_a_row_without_a_registered_class_says_how_to_register_it(monkeypatch):
    row = support.backbones.Backbone(dict(type='mmrev.Other'), {}, {})
    monkeypatch.setitem(support.backbones.BACKBONES, 'Other', row)
    with pytest.raises(LookupError, match='`mmrev.Other`.*@MODELS.register_module.*mmrev/models/backbones/__init__.py'):
        support.backbones.kind('Other')


@pytest.mark.parametrize('test', ASKED, ids=lambda test: test.__name__)
def test_it_passes_what_every_backbone_is_asked(test):
    test('RevNet')


@pytest.mark.parametrize('test', [
    shared.test_gradients_reach_every_parameter_and_every_statistic_moves, shared.test_what_is_frozen_does_not_change])
@pytest.mark.parametrize('reversible', [True, False])
def test_it_passes_what_every_reversible_backbone_is_asked(test, reversible):
    test('RevNet', dict(reversible=reversible))


@pytest.mark.parametrize('num_blocks', [(1, 2), (4, 3)])
def test_its_gradients_are_those_of_plain_autograd(revnet, num_blocks):
    torch.manual_seed(0)
    model = revnet(dict(channels=(8, 16), num_blocks=num_blocks), out_indices=-1).double()
    x = image().double().requires_grad_()
    assert_same_gradients(model, x)
    assert_invertible(model, x)


def test_its_memory_does_not_grow_with_depth(revnet):

    def per_image(depth, reversible):
        model = revnet(dict(channels=(16, ), num_blocks=(depth, )), out_indices=0, reversible=reversible)
        return bytes_per_sample(lambda batch: model(image(batch))[0].sum().backward(), 2, 4)

    assert per_image(12, True) < 1.02 * per_image(3, True)
    assert per_image(12, False) > 2 * per_image(3, False)
