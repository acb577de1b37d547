"""What is installed, and whether it works together.

Nothing is imported here but the standard library: packages are imported by `_probe.py` in another process, because a
broken one may raise anything or take the process with it.
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
    'tensorboard': ('curves in TensorBoard', 'tensorboard'),
    'matplotlib': ('pictures of curves', 'matplotlib'),
    'sklearn': ('the digits data set of the quickstart', 'scikit-learn'),
    'inplace_abn': ('the compiled InPlace-ABN; mmrev has its own', 'inplace-abn'),
}
_DISPLAY_LIBRARIES = ('libGL', 'libgthread', 'libX11', 'libxcb', 'libSM', 'libXext')


@dataclass
class Facts:
    """What was found on a machine; of a module that was not asked for, nothing is known."""

    modules: dict  # answers of the probe by module name
    distributions: dict = field(default_factory=dict)  # names of the distributions that provide each import name
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
        """Name under which pip knows the package that provides a module."""
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
    """Import modules in another process, and in a further one what is left when a module kills it."""
    found: dict = {}
    code = (Path(__file__).parents[1] / '_probe.py').read_text(encoding='utf-8')
    while left:
        ended = subprocess.run([sys.executable, '-c', code, json.dumps(sys.path), json.dumps(left)],
                               capture_output=True, text=True, errors='replace', check=False)
        found.update({answer['module']: answer for answer in map(json.loads, ended.stdout.splitlines())})
        left = [name for name in left if name not in found]
        if left:
            last_words = (ended.stderr.strip().splitlines() or ['no message'])[-1]
            found[left.pop(0)] = {'error': f'the process ended with status {ended.returncode} while importing it: '
                                           f'{last_words}'}
    return found


def _visible_gpus() -> tuple[str, ...]:
    """NVIDIA GPUs that the driver lists, whether or not torch can use them."""
    try:
        listed = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line for line in listed.splitlines() if line.startswith('GPU '))


def torch(facts: Facts) -> Iterator[Problem]:
    """torch imports, and uses the GPU that the driver shows."""
    error, answer = facts.error('torch'), facts.modules.get('torch', {})
    if facts.missing('torch'):
        yield Problem('torch is not installed', pip('install', 'torch', 'torchvision'))
    elif error:
        yield Problem(f'torch cannot be imported: {error}',
                      pip('install', '--force-reinstall', f'torch{exactly(facts.version("torch"))}'))
    elif facts.gpus and not answer.get('cuda') and os.environ.get('CUDA_VISIBLE_DEVICES') is None:
        built = answer.get('cuda_build')
        why = f'built for CUDA {built}, for which the driver may be too old' if built else 'built for the CPU'
        yield Problem(f'the driver shows {len(facts.gpus)} GPU(s), but torch cannot use them: it is {why}',
                      'install the torch that https://pytorch.org/get-started/locally names for your driver '
                      '(`nvidia-smi` prints its CUDA version), then build mmcv again')


def numpy(facts: Facts) -> Iterator[Problem]:
    """NumPy imports, and torch was compiled for its generation."""
    misfit = facts.modules.get('torch', {}).get('numpy_error')
    if facts.error('numpy'):
        yield Problem(f'numpy cannot be imported: {facts.error("numpy")}', pip('install', '--force-reinstall', 'numpy'))
    elif misfit:
        yield Problem(f'torch {facts.version("torch")} and numpy {facts.version("numpy")} do not fit: {misfit}',
                      pip('install', 'numpy<2'))


def torchvision(facts: Facts) -> Iterator[Problem]:
    """torchvision was compiled for the torch that is installed."""
    if not facts.works('torch') or facts.missing('torchvision') and facts.torch_alone():
        return
    installed = facts.version('torch').split('+')[0]
    minor, needed = re.match(r'2\.(\d+)', installed), re.search(r'==\s*\(?([\d.]+)', facts.torchvision_needs)
    fitting = f'==0.{int(minor.group(1)) + 15}.*' if minor else ''  # torchvision 0.(n + 15) belongs to torch 2.n
    fix = pip('install', f'torchvision{fitting}', f'torch{exactly(installed)}')
    if facts.missing('torchvision'):
        yield Problem('torchvision is not installed (mmcv, mmdet and mmpretrain need it)', fix)
    elif facts.error('torchvision'):
        yield Problem(f'torchvision does not work with torch {installed}: {facts.error("torchvision")}', fix)
    elif needed and needed.group(1) != installed:
        yield Problem(f'torchvision {facts.version("torchvision")} was made for torch {needed.group(1)}, but torch '
                      f'{installed} is installed', fix)


def opencv(facts: Facts) -> Iterator[Problem]:
    """One OpenCV, and one that needs no display libraries where there are none."""
    installed, error = facts.distributions.get('cv2', []), facts.error('cv2')
    headless = pip('install', '--force-reinstall', '--no-deps', 'opencv-python-headless')
    swap = (pip('uninstall', '-y', *installed) + ' && ' if installed else '') + headless
    if len(installed) > 1:
        yield Problem(f'{len(installed)} OpenCVs overwrite each other\'s files: {", ".join(installed)}', swap)
    elif facts.missing('cv2'):
        if not facts.torch_alone():
            yield Problem('OpenCV is not installed', headless)
    elif error and any(library in error for library in _DISPLAY_LIBRARIES):
        yield Problem(f'OpenCV needs display libraries that this machine lacks: {error}', swap)
    elif error:
        yield Problem(f'OpenCV cannot be imported: {error}', swap)


def pkg_resources(facts: Facts) -> Iterator[Problem]:
    """mmengine imports pkg_resources while it runs; setuptools dropped it in version 81."""
    if facts.error('pkg_resources') and not facts.missing('mmengine'):
        yield Problem(f'mmengine needs pkg_resources, which the installed setuptools lacks: '
                      f'{facts.error("pkg_resources")}', pip('install', 'setuptools<81'))


def hosts(facts: Facts) -> Iterator[Problem]:
    """The OpenMMLab packages import, and accept each other's versions."""
    for host in () if facts.torch_alone() else HOSTS:  # engine and layers need torch alone; the report says so
        error, others = facts.error(host), REQUIRED[:REQUIRED.index(host)]
        lacking = re.search(r'No module named .?(\w+)', error)
        refused = re.search(r'^AssertionError.*[Ii]nstall\s+(mmcv|mmengine)\s*([<>=!~][^\'"]*[\w*])', error)
        if facts.missing(host):
            fix = build_mmcv(facts) if host == 'mmcv' else pip('install', host)
            yield Problem(f'{host} is not installed, but other OpenMMLab packages are', f'{fix} (or the distribution '
                          'that provides it in the stack that you use)')
        elif any(error == facts.error(other) for other in others) or lacking and facts.missing(lacking.group(1)):
            continue  # no error, or the consequence of one that is reported by itself
        elif refused:
            package, versions = refused.group(1), refused.group(2).replace(' ', '')
            yield Problem(f'{host} and {package} {facts.version(package)} refuse each other: {error}',
                          build_mmcv(facts, versions) if package == 'mmcv' else
                          pip('install', facts.distribution(package) + versions))
        elif error:
            yield Problem(f'{host} cannot be imported: {error}',
                          pip('install', '--force-reinstall', '--no-deps', facts.distribution(host)))


def ops(facts: Facts) -> Iterator[Problem]:
    """mmcv has compiled ops, they were compiled for this torch, and run on the GPU that torch uses."""
    if not facts.works('mmcv') or not facts.works('torch'):
        return
    error, installed, torch_facts = facts.error('mmcv.ops'), facts.version('mmcv'), facts.modules['torch']
    if error:
        absent = re.search(r'No module named .?mmcv\.(_ext|ops)', error)
        why = 'was installed without its compiled ops' if absent else 'has ops that do not load with this torch'
        yield Problem(f'mmcv {installed} {why}, so detectors cannot run: {error}',
                      build_mmcv(facts, exactly(installed)))
    elif torch_facts.get('cuda') and not re.match(r'\d', str(facts.modules['mmcv.ops'].get('cuda_ops', ''))):
        toolkit = f'install the CUDA toolkit {torch_facts.get("cuda_build")} (it brings nvcc), then '
        yield Problem('a GPU is visible, but mmcv was compiled without its CUDA ops: detectors fail on the GPU at the '
                      'first NMS or RoIAlign', toolkit * (not facts.nvcc) + build_mmcv(facts, exactly(installed), True)
                      + '   (or train on the CPU: CUDA_VISIBLE_DEVICES= mmrev train ...)')
    elif facts.modules['mmcv.ops'].get('cuda_error'):
        yield Problem(f'the CUDA ops of mmcv {installed} do not run on {facts.modules["mmcv.ops"]["cuda_error"]}',
                      build_mmcv(facts, exactly(installed), True))


def registration(facts: Facts) -> Iterator[Problem]:
    """Where mmengine works, `mmrev.*` types and `mmrev::` configs are known to it."""
    if facts.works('mmengine') and facts.error('mmrev.registry'):
        yield Problem(f'mmrev cannot register its types with mmengine: {facts.error("mmrev.registry")}',
                      'install mmrev again: ' + pip('install', '--force-reinstall', '--no-deps', 'mmrev')
                      + ', or `-e .` in a clone')


def optional(facts: Facts) -> Iterator[Problem]:
    """Optional parts may be missing; one that is there must work."""
    for name, (_, distribution) in OPTIONAL.items():
        if facts.error(name) and not facts.missing(name):
            yield Problem(f'{distribution} is installed but cannot be imported: {facts.error(name)}',
                          pip('uninstall', '-y', distribution))


def build_mmcv(facts: Facts, versions: str = '>=2.1.0,<2.2.0', cuda: bool = False) -> str:
    """Command that compiles mmcv for the installed torch.

    Without build isolation, because mmcv's build leaves the ops out when it cannot import torch; without pip's cache,
    because that keeps wheels that were built for another torch.
    """
    installed = facts.distribution('mmcv')
    name = installed.removesuffix('-lite')
    remove = pip('uninstall', '-y', installed) + ' && ' if installed != name else ''
    build = pip('install', '--force-reinstall', '--no-deps', '--no-build-isolation', '--no-cache-dir', '--no-binary',
                name, name + versions)
    return (f'{remove}{pip("install", "setuptools<81", "wheel", "ninja")} && MMCV_WITH_OPS=1 '
            f'{"FORCE_CUDA=1 " if cuda else ""}CFLAGS=-g0 {build}')


def exactly(version: str) -> str:
    """`==version`, or nothing for an unknown one."""
    return f'=={version.split("+")[0]}' if version else ''


def pip(*arguments: str) -> str:
    """A pip command of this interpreter, ready to be pasted."""
    python = shutil.which('python')  # in the user's shell
    active = python is not None and os.path.abspath(python) == os.path.abspath(sys.executable)
    return ' '.join(['python' if active else shlex.quote(sys.executable), '-m pip', *map(shlex.quote, arguments)])
