"""Names that older versions of PyTorch lack do here what they do in newer ones."""
import argparse
import ast
import pickle
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from mmrev import compat
from mmrev.testing import PeakMemory

ROOT = Path(__file__).parents[1]
NEWER = re.compile(r'torch\.autograd\.graph\.(?:GradientEdge|get_gradient_edge)|torch\.get_device_module|'
                   r'torch\.(?:is_autocast_enabled|get_autocast_dtype|amp\.is_autocast_available)|'
                   r'torch\.nn\.modules\.module\._has_any_global_hook|torch\.compiler\.is_\w+|'
                   r'torch\.serialization\.\w*globals\w*|torch\.utils\._pytree\.tree_leaves')


def names(path):
    """Dotted names of the attributes and imports in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def test_no_other_file_uses_names_that_pytorch_2_1_lacks():
    for path in (ROOT / 'mmrev').rglob('*.py'):
        if '.mim' not in path.parts and path.name != 'compat.py':
            found = [name for name in names(path) if NEWER.fullmatch(name)]
            assert not found, f'{path.relative_to(ROOT)}: {found}'


def test_gradients_from_an_edge_equal_those_from_the_output():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(3, 4, dtype=torch.float64)
    expected, = torch.autograd.grad(x.sin(), x, gradient)
    got, = torch.autograd.grad(compat.output_edge(x.sin()), x, gradient)
    assert torch.equal(got, expected)


def test_an_edge_needs_no_grad_mode_and_accepts_a_leaf():
    leaf = nn.Parameter(torch.ones(2))
    with torch.no_grad():
        edge = compat.output_edge(leaf)
    got, = torch.autograd.grad(edge, leaf, torch.tensor([2., 3.]))
    assert got.tolist() == [2., 3.]


class Twice(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


@pytest.mark.parametrize('twice', [lambda x: x * 2, Twice.apply], ids=['in C++', 'in Python'])
def test_an_edge_does_not_keep_the_memory_of_the_output(twice):
    x = torch.zeros(1000, requires_grad=True)
    with PeakMemory() as memory:
        edge = compat.output_edge(twice(x))
        assert memory.current < 1000
    assert torch.autograd.grad(edge, x, torch.ones(1000))[0].sum() == 2000


def test_the_node_of_an_edge_leads_to_the_leaves():
    x = torch.ones(1, requires_grad=True)
    edge = compat.output_edge(x.sin())
    todo, leaves = [compat.edge_node(edge)], []
    while todo:
        node = todo.pop()
        leaves += [node.variable] if hasattr(node, 'variable') else []
        todo += [following for following, _ in node.next_functions if following is not None]
    assert leaves[0] is x and len(leaves) == 1


def test_autocast_is_told_per_device_type():
    assert compat.is_autocast_available('cpu') and not compat.is_autocast_available('meta')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert compat.is_autocast_enabled('cpu') and compat.get_autocast_dtype('cpu') == torch.bfloat16
    assert not compat.is_autocast_enabled('cpu') and not compat.is_autocast_enabled('cuda')


@pytest.mark.parametrize('register', [
    nn.modules.module.register_module_forward_hook, nn.modules.module.register_module_forward_pre_hook,
    nn.modules.module.register_module_full_backward_hook, nn.modules.module.register_module_full_backward_pre_hook
])
def test_a_hook_on_all_modules_is_noticed_until_it_is_removed(register):
    assert not compat.has_global_hooks()
    handle = register(lambda *_: None)
    assert compat.has_global_hooks()
    handle.remove()
    assert not compat.has_global_hooks()


def test_the_module_of_a_device_is_found_by_its_type():
    assert compat.get_device_module(torch.device('cuda', 0)) is torch.cuda


def saved(path, content, zipped):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return str(path)


@pytest.mark.parametrize('zipped', [True, False])
def test_a_checkpoint_may_hold_the_named_classes_alone(tmp_path, zipped):
    content = dict(weight=torch.arange(3.), args=argparse.Namespace(lr=0.1), order=[1, 'a', None])
    file = saved(tmp_path / 'a.pth', content, zipped)
    loaded = compat.load_weights_only(file, 'cpu', [argparse.Namespace])
    assert torch.equal(loaded['weight'], content['weight']) and loaded['args'] == content['args']
    assert loaded['order'] == content['order']
    assert not zipped or torch.equal(
        compat.load_weights_only(file, 'cpu', [argparse.Namespace], mmap=True)['weight'], content['weight'])
    with pytest.raises(pickle.UnpicklingError, match='GLOBAL argparse.Namespace'):
        compat.load_weights_only(file, 'cpu', [])


@pytest.mark.parametrize('zipped', [True, False])
def test_a_checkpoint_may_hold_plain_values(tmp_path, zipped):
    content = [b'bytes', {1, 2}, 1 + 2j, bytearray(b'x'), Counter('aab'), torch.device('cpu'), torch.bool,
               torch.bfloat16, torch.Size([1, 2]), nn.Parameter(torch.ones(2)).data, None, 1.5, (True, 'text')]
    loaded = compat.load_weights_only(saved(tmp_path / 'a.pth', content, zipped), 'cpu', [])
    assert str(loaded) == str(content) and [type(x) for x in loaded] == [type(x) for x in content]


class Attack:

    def __reduce__(self):
        return (eval, ('1 + 1', ))


@pytest.mark.parametrize('zipped', [True, False])
def test_a_checkpoint_that_holds_code_is_not_run(tmp_path, zipped):
    file = saved(tmp_path / 'a.pth', [Attack()], zipped)
    with pytest.raises(pickle.UnpicklingError, match=r'GLOBAL \S*eval'):
        compat.load_weights_only(file, 'cpu', [argparse.Namespace])


def read_as(name):
    return f'read as {name}'


class Renamed:

    def __reduce__(self):
        return (len, ('text', ))


def test_a_function_may_stand_in_for_another_name(tmp_path):
    file = saved(tmp_path / 'a.pth', [Renamed()], True)
    assert compat.load_weights_only(file, 'cpu', [(read_as, 'builtins.len')]) == ['read as text']


def test_a_storage_is_noticed_when_its_last_tensor_is_gone():
    x, freed = torch.ones(4), []
    watch = compat.when_freed(x.untyped_storage(), freed.append)
    view = x[:2]
    del x
    compat.notice_freed([watch])
    assert not freed
    del view
    compat.notice_freed([watch])
    assert len(freed) == 1


@pytest.mark.parametrize('operator, args', [
    ('silu', ()), ('gelu', ()), ('threshold', (0, )), ('leaky_relu', (0.1, True)), ('hardswish', ())])
@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_an_activations_backward_writes_to_a_tensor_on_every_device(operator, args, device):
    backward = getattr(torch.ops.aten, f'{operator}_backward')
    gradient, x = torch.linspace(-1, 1, 5, device=device), torch.linspace(-2, 1, 5, device=device)
    expected = backward(gradient, x, *args)
    out = torch.empty_like(x)
    name = 'out' if operator == 'hardswish' else 'grad_input'
    assert compat.backward_into(getattr(backward, name), gradient, x, *args, **{name: out}) is out
    assert device == 'meta' or torch.equal(out, expected)
