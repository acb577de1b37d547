"""Who may import whom: downward only, and the engine with torch alone."""
import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / 'mmrev'
TORCH_ONLY = ('compat.py', 'reversible', 'layers', 'surgery', 'testing')
ALLOWED = {  # folder: parts of mmrev that it may import besides itself
    'compat.py': set(),
    'reversible': {'compat'},
    'layers': {'compat', 'surgery'},  # for names that lay here until 0.2, when one asks for them
    'surgery': {'compat', 'layers'},
    'testing': {'compat', 'reversible'},
    'models': {'compat', 'registry', 'reversible', 'layers', 'problems'},
}


def imports(path: Path):
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


def files(folder):
    return [ROOT / folder] if folder.endswith('.py') else sorted((ROOT / folder).rglob('*.py'))


@pytest.mark.parametrize('folder', ALLOWED)
def test_imports_point_downward(folder):
    for path in files(folder):
        for name in imports(path):
            if name.startswith('mmrev.'):
                assert name.split('.')[1] in ALLOWED[folder] | {folder}, f'{path.name} imports {name}'


@pytest.mark.parametrize('folder', TORCH_ONLY)
def test_engine_layers_and_testing_need_torch_alone(folder):
    allowed = {'torch', 'mmrev'} | set(sys.stdlib_module_names)
    for path in files(folder):
        for name in imports(path):
            assert name.split('.')[0] in allowed, f'{path.name} imports {name}'


def test_a_backbone_never_imports_a_sibling():
    siblings = {path.stem for path in files('models/backbones')} - {'__init__'}
    for path in files('models/backbones'):
        if path.stem != '__init__':
            found = {name.split('.')[3] for name in imports(path) if name.startswith('mmrev.models.backbones.')}
            assert not found & siblings, f'{path.name} imports {found & siblings}'


def test_engine_runs_where_openmmlab_is_absent():
    code = ('import sys\n'
            'for name in ("mmengine", "mmcv", "mmdet", "mmpretrain"):\n'
            '    sys.modules[name] = None\n'
            'import torch, mmrev\n'
            'from mmrev.reversible import ReversibleSequence, TwoStreamCoupling\n'
            'from mmrev.testing import assert_invertible\n'
            'f = lambda: torch.nn.Linear(4, 4).double()\n'
            'streams = [torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]\n'
            'assert_invertible(ReversibleSequence([TwoStreamCoupling(f(), f())]), *streams)\n'
            'print("ran", mmrev.__version__)\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('ran'), done.stderr


HOUSE = {  # the same of what surrounds the networks
    'problems.py': set(),
    'checkpoints': {'problems', '_after_import', '__version__', 'compat'},
    'analysis': {'compat'},
    'apis': {'problems', '_after_import', 'checkpoints', 'hooks', 'surgery'},
    'diagnosis': {'problems', 'checkpoints', 'analysis', 'apis', 'datasets', 'hooks', 'models', 'optim',
                  'registry'},
    'doctor.py': {'problems', 'diagnosis'},
    'cli': {'problems', 'checkpoints', 'diagnosis', 'apis', 'hooks', '__version__'},
}


@pytest.mark.parametrize('part', HOUSE)
def test_imports_of_the_house_point_downward(part):
    for path in [ROOT / part] if part.endswith('.py') else files(part):
        for name in imports(path):
            if name.startswith('mmrev.'):
                assert name.split('.')[1] in HOUSE[part] | {part}, f'{path.name} imports {name}'


def test_no_two_files_of_the_house_import_each_other():
    """Not even through others, nor within functions."""
    paths = {'.'.join(('mmrev', *path.relative_to(ROOT).with_suffix('').parts)).removesuffix('.__init__'): path
             for part in HOUSE for path in ([ROOT / part] if part.endswith('.py') else files(part))}
    within = {name: set(imports(path)) & set(paths) - {name} for name, path in paths.items()}
    for name, imported in within.items():  # `from .x import y` names the package as well
        within[name] = {other for other in imported if not name.startswith(f'{other}.')}
    TopologicalSorter(within).prepare()  # raises CycleError
