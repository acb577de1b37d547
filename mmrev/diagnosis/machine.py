"""Checks of the machine: which packages are installed, and whether they are compatible.

This module imports only the standard library. `_probe.py` imports packages in another process, because a broken package
may raise anything or crash.
"""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

from mmrev.problems import Problem

HOSTS = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain')
PARTS_OF_OTHERS = ('mmcv.ops', 'pkg_resources', 'mmrev.registry')
REQUIRED = ('torch', 'torchvision', 'numpy', 'cv2', *HOSTS, *PARTS_OF_OTHERS)
OPTIONAL = {  # module: its purpose, its distribution
    'mmseg': ('semantic segmentation', 'mmsegmentation'),
    'tensorboard': ('curves in TensorBoard', 'tensorboard'),
    'matplotlib': ('pictures of curves', 'matplotlib'),
    'sklearn': ('the digits data set of the quickstart', 'scikit-learn'),
    'inplace_abn': ('the compiled InPlace-ABN; mmrev has its own', 'inplace-abn'),
}


@dataclass
class Facts:
    """Packages, GPUs and compilers of a machine."""

    modules: dict  # answers of the probe by module name
    distributions: dict = field(default_factory=dict)  # distributions that provide each import name
    torchvision_needs: str = ''  # requirement such as `torch==2.11.0` in torchvision's metadata
    gpus: tuple = ()  # lines of `nvidia-smi -L`
    nvcc: str = ''  # path of the CUDA compiler

    def error(self, name: str) -> str:
        """Why a module cannot be imported; empty if it can."""
        return self.modules.get(name, {}).get('error', '')

    def missing(self, name: str) -> bool:
        """Whether a module is not installed at all."""
        return self.modules.get(name, {}).get('missing', False)

    def works(self, name: str) -> bool:
        """Whether a module was imported."""
        return name in self.modules and not self.error(name)

    def version(self, name: str) -> str:
        """Version of a module; empty if unknown."""
        return str(self.modules.get(name, {}).get('version', ''))

    def distribution(self, name: str) -> str:
        """Name of the package that provides a module, as pip knows it."""
        return (self.distributions.get(name) or [name])[0]

    def torch_alone(self) -> bool:
        """Whether nothing of OpenMMLab is installed."""
        return all(self.missing(host) for host in HOSTS)


def collect() -> Facts:
    """Probe this machine."""
    distributions = {name: sorted(set(found)) for name, found in packages_distributions().items()}
    needs = [line for line in _metadata(requires, 'torchvision') or [] if re.match(r'torch\b(?!vision)', line)]
    facts = Facts(_probe([*REQUIRED, *OPTIONAL]), distributions, needs[0] if needs else '', _visible_gpus(),
                  shutil.which('nvcc') or '')
    for name, answer in facts.modules.items():
        answer['version'] = answer.get('version') or _metadata(version, facts.distribution(name)) or ''
    return facts


def _metadata(read, distribution: str):
    try:
        return read(distribution)
    except PackageNotFoundError:
        return None


def _probe(left: list[str]) -> dict:
    """Import modules in another process, and start a new one after a module has crashed it."""
    found: dict = {}
    code = (Path(__file__).parents[1] / '_probe.py').read_text(encoding='utf-8')
    while left:
        ended = subprocess.run([sys.executable, '-c', code, json.dumps(sys.path), json.dumps(left)],
                               capture_output=True, text=True, errors='replace', check=False)
        found.update({answer['module']: answer for answer in map(json.loads, ended.stdout.splitlines())})
        left = [name for name in left if name not in found]
        if left:
            last_words = (ended.stderr.strip().splitlines() or ['no message'])[-1]
            found[left.pop(0)] = {'error': f'its import ended the process with status {ended.returncode}: {last_words}'}
    return found


def _visible_gpus() -> tuple[str, ...]:
    """NVIDIA GPUs that the driver lists, whether or not torch can use them."""
    try:
        listed = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line for line in listed.splitlines() if line.startswith('GPU '))


def imports(facts: Facts) -> Iterator[Problem]:
    """Every package can be imported; errors that follow from another one are left out."""
    seen = set()
    for name in (*REQUIRED, *OPTIONAL):
        error, missing = facts.error(name), facts.missing(name)
        lacking = re.search(r'No module named .?(\w+)', error)
        follows = error in seen or lacking and lacking.group(1) != name and facts.missing(lacking.group(1))
        spare = name in OPTIONAL or facts.torch_alone() and name != 'torch'  # engine and layers need torch alone
        if error and not follows and not (missing and spare):
            yield Problem(f'{name} is not installed' if missing else f'{name} cannot be imported: {error}',
                          _reinstall(facts, name))
        seen.add(error)


def _reinstall(facts: Facts, name: str) -> str:
    """The command that fixes a missing or broken package."""
    if name in OPTIONAL:
        return pip('uninstall', '-y', OPTIONAL[name][1])
    if name in ('mmcv', 'mmcv.ops'):
        return build_mmcv(facts, exactly(facts.version('mmcv')) or '>=2.1.0,<2.2.0')
    refused = re.search(r'^AssertionError.*[Ii]nstall\s+(mmcv|mmengine)\s*([<>=!~][^\'"]*[\w*])', facts.error(name))
    if refused:  # by the version check of mmdet or mmpretrain
        host, fit = refused.group(1), refused.group(2).replace(' ', '')
        return build_mmcv(facts, fit) if host == 'mmcv' else pip('install', facts.distribution(host) + fit)
    fresh = () if facts.missing(name) else ('--force-reinstall', )
    return {
        'torch': pip('install', *fresh, f'torch{exactly(facts.version("torch"))}', 'torchvision'),
        'torchvision': _fitting_torchvision(facts),
        'cv2': _one_opencv(facts),
        'pkg_resources': pip('install', 'setuptools<81'),  # version 81 dropped it; mmengine imports it while it runs
        'mmrev.registry': pip('install', *fresh, '--no-deps', 'mmrev') + ', or `-e .` in a clone',
    }.get(name) or pip('install', *fresh, *(['--no-deps'] if fresh else []), facts.distribution(name))


def gpu(facts: Facts) -> Iterator[Problem]:
    """torch can use the GPUs that the driver lists, and mmcv has ops for them."""
    answer = facts.modules.get('torch', {})
    built = answer.get('cuda_build')
    if facts.works('torch') and facts.gpus and not answer.get('cuda') and 'CUDA_VISIBLE_DEVICES' not in os.environ:
        why = f'built for CUDA {built}, for which the driver may be too old' if built else 'built for the CPU'
        yield Problem(f'the driver lists {len(facts.gpus)} GPU(s), but torch cannot use them: it is {why}',
                      'install the build of torch for your driver (https://pytorch.org/get-started/locally; '
                      '`nvidia-smi` prints its CUDA version), then build mmcv again')
    if not facts.works('mmcv.ops') or not answer.get('cuda'):
        return
    ops, build = facts.modules['mmcv.ops'], build_mmcv(facts, exactly(facts.version('mmcv')), cuda=True)
    if not re.match(r'\d', str(ops.get('cuda_ops', ''))):
        toolkit = f'install the CUDA toolkit {built}, which contains nvcc, then ' * (not facts.nvcc)
        yield Problem('a GPU is visible, but mmcv was compiled without its CUDA ops: detectors fail on the GPU at the '
                      'first NMS or RoIAlign',
                      f'{toolkit}{build}   (or train on the CPU: CUDA_VISIBLE_DEVICES= mmrev train ...)')
    elif ops.get('cuda_error'):
        yield Problem(f'the CUDA ops of mmcv {facts.version("mmcv")} do not run on {ops["cuda_error"]}', build)


def versions(facts: Facts) -> Iterator[Problem]:
    """torch, NumPy and torchvision are compatible, and there is only one OpenCV."""
    installed, opencvs = facts.version('torch').split('+')[0], facts.distributions.get('cv2', [])
    misfit = facts.modules.get('torch', {}).get('numpy_error')
    needed = re.search(r'==\s*\(?([\d.]+)', facts.torchvision_needs)
    if misfit and facts.works('numpy'):
        yield Problem(f'torch {installed} and numpy {facts.version("numpy")} are incompatible: {misfit}',
                      pip('install', 'numpy<2'))
    if facts.works('torchvision') and needed and needed.group(1) != installed:
        yield Problem(f'torchvision {facts.version("torchvision")} was built for torch {needed.group(1)}, but torch '
                      f'{installed} is installed', _fitting_torchvision(facts))
    if len(opencvs) > 1:
        yield Problem(f'OpenCV packages overwrite each other\'s files: {", ".join(opencvs)}', _one_opencv(facts))


def _fitting_torchvision(facts: Facts) -> str:
    minor = re.match(r'2\.(\d+)', facts.version('torch'))
    fitting = f'==0.{int(minor.group(1)) + 15}.*' if minor else ''  # torchvision 0.(n + 15) belongs to torch 2.n
    return pip('install', f'torchvision{fitting}', f'torch{exactly(facts.version("torch"))}')


def _one_opencv(facts: Facts) -> str:
    installed = facts.distributions.get('cv2', [])
    return (pip('uninstall', '-y', *installed) + ' && ' if installed else '') + pip(
        'install', '--force-reinstall', '--no-deps', 'opencv-python-headless')


def build_mmcv(facts: Facts, versions: str, cuda: bool = False) -> str:
    """The command that compiles mmcv for the installed torch.

    It disables build isolation, because mmcv's build omits the ops if it cannot import torch, and pip's cache, which
    may contain wheels for another torch.
    """
    installed = facts.distribution('mmcv')
    name = installed.removesuffix('-lite')
    remove = pip('uninstall', '-y', installed) + ' && ' if installed != name else ''
    build = pip('install', '--force-reinstall', '--no-deps', '--no-build-isolation', '--no-cache-dir', '--no-binary',
                name, name + versions)
    return (f'{remove}{pip("install", "setuptools<81", "wheel", "ninja")} && MMCV_WITH_OPS=1 '
            f'{"FORCE_CUDA=1 " if cuda else ""}CFLAGS=-g0 {build}')


def exactly(version: str) -> str:
    """``==version``, or an empty string for an unknown version."""
    return f'=={version.split("+")[0]}' if version else ''


def pip(*arguments: str) -> str:
    """A pip command for this interpreter that can be pasted."""
    python = shutil.which('python')  # in the user's shell
    active = python is not None and os.path.abspath(python) == os.path.abspath(sys.executable)
    return ' '.join(['python' if active else shlex.quote(sys.executable), '-m pip', *map(shlex.quote, arguments)])
