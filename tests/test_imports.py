"""Who may import whom: downward only, in every folder and file, and without a circle."""
import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / 'mmrev'
FILES = sorted(ROOT.rglob('*.py'))
# From bottom to top. A part imports parts of the lines above its own; parts of one line do not import each other. It is
# what docs/architecture.md and CONTRIBUTING.md say; a new folder needs a place here.
PARTS = (
    ('compat', '_after_import', '_probe'),
    ('reversible', ),
    ('layers', ),
    ('testing', ),
    ('problems', 'registry', 'side_effects'),
    ('checkpoints', ),
    ('models', ),
    ('surgery', ),
    ('memory', 'analysis'),
    ('datasets', ),
    ('hooks', 'optim', 'strategies'),
    ('apis', ),
    ('diagnosis', ),
    ('cli', ),
    ('doctor', ),
)
WITHIN = {  # the same within a folder that has parts of its own
    'reversible': (
        ('errors', 'modes', 'notes', 'overlap', 'streams'),
        ('check', 'generators', 'graph', 'gradients', 'running', 'states', 'step'),
        ('coupling', 'keep', 'plain', 'shared'),
        ('function', ),
        ('observe', 'signature'),
        ('inference', 'output', 'plan', 'replay'),
        ('record', ),
        ('call', ),
        ('undo', ),
        ('node', ),
        ('sequence', ),
    ),
    'models': (('pretrained', ), ('backbone', ), ('blocks', ),
               ('backbones', 'necks', 'heads', 'decode_heads', 'segmentors', 'tta')),
    'layers': (('fused', ), ('inplace_abn', )),  # below the files
}
MOVED = {('layers/__init__.py', 'surgery')}  # names that lay there until 0.2, when one asks for them
TORCH_ONLY = ('compat', 'reversible', 'layers', 'testing', 'surgery')
HOSTS = 'mmcv|mmdet|mmengine|mmpretrain|mmseg|timm|torchvision'


def imports(path):
    """Absolute names of everything that a file imports, at any depth of its code."""
    package = ('mmrev', *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(package[:len(package) - node.level + 1]) if node.level else ''
            module = '.'.join(filter(None, [base, node.module]))
            yield module
            yield from (f'{module}.{alias.name}' for alias in node.names)


def parts(path):
    """The names that lead to a file: ``models``, ``blocks``, ``norms``."""
    return path.relative_to(ROOT).with_suffix('').parts


def levels(order):
    return {part: level for level, line in enumerate(order) for part in line}


def within(folder):
    return [path for path in FILES if parts(path)[0] == folder]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_a_file_imports_parts_below_its_own(path):
    own, level = parts(path)[0], levels(PARTS)
    if own == '__init__':  # the package itself: the top
        return
    assert own in level, f'say in `PARTS` who may import mmrev/{own}'
    for name in imports(path):
        other = (name.split('.') + [''])[1] if name.startswith('mmrev.') else own
        if other != own and other != '__version__' and (name_of(path), other) not in MOVED:
            assert level[other] < level[own], f'{name_of(path)} imports {name}'


@pytest.mark.parametrize('folder', WITHIN)
def test_the_parts_of_a_folder_import_those_below_their_own(folder):
    level = levels(WITHIN[folder])
    for path in within(folder):
        own = parts(path)[1]
        assert folder == 'layers' or own in level or own == '__init__', f'say in `WITHIN` who may import {own}'
        for name in imports(path):
            other = (name.split('.') + ['', ''])[2] if name.startswith(f'mmrev.{folder}.') else own
            if other != own and own != '__init__' and own in level:
                assert level.get(other, len(level)) < level[own], f'{name_of(path)} imports {name}'


def test_no_two_files_import_each_other():
    """Not even through others, nor within functions."""
    paths = {'.'.join(('mmrev', *parts(path))).removesuffix('.__init__'): path for path in FILES if parts(path)[0] !=
             '__init__'}
    graph = {name: set(imports(path)) & set(paths) - {name} for name, path in paths.items()}
    for name, imported in graph.items():  # `from .x import y` names the package as well
        graph[name] = {other for other in imported if not name.startswith(f'{other}.')}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_a_backbone_never_imports_a_sibling():
    siblings = {parts(path)[2] for path in within('models') if parts(path)[1] == 'backbones'} - {'__init__'}
    for path in within('models'):
        if parts(path)[1] == 'backbones' and parts(path)[2] != '__init__':
            found = {name.split('.')[3] for name in imports(path) if name.startswith('mmrev.models.backbones.')}
            assert not found & siblings, f'{name_of(path)} imports {found & siblings}'


@pytest.mark.parametrize('part', TORCH_ONLY)
def test_engine_layers_surgery_and_testing_need_torch_alone(part):
    allowed = {'torch', 'mmrev'} | set(sys.stdlib_module_names)
    for path in within(part):
        for name in imports(path):
            assert name.split('.')[0] in allowed, f'{name_of(path)} imports {name}'


def test_nothing_but_surgery_names_a_class_of_another_package_or_asks_for_the_name_of_a_class():
    """Types of a registry, as configs name them (``mmpretrain.LN2d``), have no module."""
    for path in FILES:
        if parts(path)[0] == 'surgery':
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.fullmatch(rf'({HOSTS})\.\w+\.[\w.]*[A-Z]\w*(\.forward)?', node.value), (path, node.value)
            if isinstance(node, ast.Compare):
                assert '.__name__ ==' not in ast.unparse(node), f'{name_of(path)}: {ast.unparse(node)}'


def test_tools_and_benchmarks_are_not_imported():
    outside = {path.stem for folder in ('tools', 'benchmarks') for path in ROOT.parent.joinpath(folder).rglob('*.py')}
    for path in FILES:
        for name in imports(path):
            assert name.split('.')[0] not in outside | {'tools', 'tests'} or name.startswith('test.'), (path, name)


@pytest.mark.subprocess
def test_engine_runs_where_openmmlab_is_absent():
    code = ('import sys\n'
            'for name in ("mmengine", "mmcv", "mmdet", "mmpretrain"):\n'
            '    sys.modules[name] = None\n'
            'import torch, mmrev\n'
            'from mmrev.reversible import ReversibleSequence, TwoStreamCoupling\n'
            'from mmrev.surgery import convert_batchnorm\n'
            'from mmrev.testing import assert_invertible\n'
            'f = lambda: torch.nn.Linear(4, 4).double()\n'
            'streams = [torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]\n'
            'assert_invertible(ReversibleSequence([TwoStreamCoupling(f(), f())]), *streams)\n'
            'print("ran", mmrev.__version__)\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('ran'), done.stderr
