"""`mmrev doctor`: what is installed, what of it works, and the command that mends what does not.

Nothing is imported here but the standard library; packages are imported by `_probe.py` in another process, because a
broken one may raise anything or take the process with it.
"""
import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

from mmrev.problems import Problem

HOSTS = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain')
PARTS_OF_OTHERS = ('mmcv.ops', 'pkg_resources', 'mmrev.registry')
REQUIRED = ('torch', 'torchvision', 'numpy', 'cv2', *HOSTS, *PARTS_OF_OTHERS)
OPTIONAL = {
    'tensorboard': ('curves in TensorBoard', 'tensorboard'),
    'matplotlib': ('pictures of curves', 'matplotlib'),
    'sklearn': ('the digits data set of the quickstart', 'scikit-learn'),
    'inplace_abn': ('the compiled InPlace-ABN; mmrev has its own', 'inplace-abn'),
}
DISPLAY_LIBRARIES = ('libGL', 'libgthread', 'libX11', 'libxcb', 'libSM', 'libXext')
PROBE = Path(__file__).with_name('_probe.py')


class Facts:
    """What the probe found.

    Args:
        modules: answers of the probe by module name.
        distributions: names of the distributions that provide each import name.
        torchvision_needs: requirement of the form `torch==2.11.0` that torchvision's metadata states, or empty.
        gpus: lines of `nvidia-smi -L`.
        nvcc: path of the CUDA compiler, or empty.
    """

    def __init__(self, modules: dict, distributions: dict | None = None, torchvision_needs: str = '',
                 gpus: tuple = (), nvcc: str = ''):
        self.modules = modules
        self.distributions = distributions or {}
        self.torchvision_needs = torchvision_needs
        self.gpus = gpus
        self.nvcc = nvcc

    def error(self, name: str) -> str:
        """Why a module cannot be imported; empty if it can."""
        return self.modules.get(name, {}).get('error', '')

    def missing(self, name: str) -> bool:
        """Whether a module is not installed at all."""
        return self.modules.get(name, {}).get('missing', False)

    def torch_alone(self) -> bool:
        """Whether nothing of OpenMMLab is installed."""
        return all(self.missing(host) for host in HOSTS)

    def works(self, name: str) -> bool:
        """Whether a module was imported."""
        return name in self.modules and not self.error(name)

    def version(self, name: str) -> str:
        """Version of a module, empty if unknown."""
        return str(self.modules.get(name, {}).get('version', ''))

    def distribution(self, name: str) -> str:
        """Name under which pip knows the package that provides a module."""
        return (self.distributions.get(name) or [name])[0]


def main(argv: list[str] | None = None) -> int:
    """Prints the report.

    Returns:
        0 where all is well, 1 where something is wrong.
    """
    parser = argparse.ArgumentParser(prog='mmrev doctor', description='Says what is installed, what of it works, and '
                                                                      'the command that mends what does not.')
    parser.parse_args(argv)
    facts = collect()
    findings = diagnose(facts)
    print('\n'.join(report(facts, findings)))
    return 1 if findings else 0


def collect() -> Facts:
    """Probes this machine."""
    distributions = {name: sorted(set(found)) for name, found in packages_distributions().items()}
    try:
        needs = [line for line in requires('torchvision') or [] if re.match(r'torch\b(?!vision)', line)]
    except PackageNotFoundError:
        needs = []
    modules = probe([*REQUIRED, *OPTIONAL])
    for name, answer in modules.items():
        if not answer.get('version'):
            answer['version'] = recorded_version(name, distributions)
    return Facts(modules, distributions, needs[0] if needs else '', visible_gpus(), shutil.which('nvcc') or '')


def recorded_version(name: str, distributions: dict) -> str:
    """Version that pip knows of a module that cannot say its own; empty if there is none."""
    try:
        return version((distributions.get(name) or [name])[0])
    except PackageNotFoundError:
        return ''


def probe(names: list[str]) -> dict:
    """Imports modules in another process, and in a further one what is left when a module kills it."""
    found: dict = {}
    left = list(names)
    while left:
        command = [sys.executable, '-c', PROBE.read_text(encoding='utf-8'), json.dumps(sys.path), json.dumps(left)]
        ended = subprocess.run(command, capture_output=True, text=True, errors='replace', check=False)
        for line in ended.stdout.splitlines():
            answer = json.loads(line)
            found[answer['module']] = answer
        left = [name for name in left if name not in found]
        if left:
            last_words = (ended.stderr.strip().splitlines() or ['no message'])[-1]
            found[left[0]] = {'error': f'the process ended with status {ended.returncode} while importing it: '
                                       f'{last_words}'}
            left = left[1:]
    return found


def visible_gpus() -> tuple[str, ...]:
    """NVIDIA GPUs that the driver lists, whether or not torch can use them."""
    tool = shutil.which('nvidia-smi')
    if not tool:
        return ()
    try:
        listed = subprocess.run([tool, '-L'], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line for line in listed.stdout.splitlines() if line.startswith('GPU '))


def diagnose(facts: Facts) -> list[Problem]:
    """All that is wrong, causes before consequences."""
    checks = (check_torch, check_numpy, check_torchvision, check_opencv, check_pkg_resources, check_hosts, check_ops,
              check_cuda_ops, check_registration, check_optional)
    return [finding for check in checks for finding in check(facts)]


def check_torch(facts: Facts) -> Iterator[Problem]:
    """torch imports, and uses the GPU that the driver shows."""
    if facts.missing('torch'):
        yield Problem('torch is not installed', pip('install', 'torch', 'torchvision'))
    elif facts.error('torch'):
        yield Problem(f'torch cannot be imported: {facts.error("torch")}',
                      pip('install', '--force-reinstall', f'torch{exactly(facts.version("torch"))}'))
    elif facts.gpus and not facts.modules['torch'].get('cuda') and os.environ.get('CUDA_VISIBLE_DEVICES') is None:
        built = facts.modules['torch'].get('cuda_build')
        why = f'built for CUDA {built}, for which the driver may be too old' if built else 'built for the CPU'
        yield Problem(f'the driver shows {len(facts.gpus)} GPU(s), but torch cannot use them: it is {why}',
                      'install the torch that https://pytorch.org/get-started/locally names for your driver '
                      '(`nvidia-smi` prints its CUDA version), then build mmcv again')


def check_numpy(facts: Facts) -> Iterator[Problem]:
    """NumPy imports, and torch was compiled for its generation."""
    if facts.error('numpy'):
        yield Problem(f'numpy cannot be imported: {facts.error("numpy")}', pip('install', '--force-reinstall', 'numpy'))
    elif facts.modules.get('torch', {}).get('numpy_error'):
        yield Problem(f'torch {facts.version("torch")} and numpy {facts.version("numpy")} do not fit: '
                      f'{facts.modules["torch"]["numpy_error"]}', pip('install', 'numpy<2'))


def check_torchvision(facts: Facts) -> Iterator[Problem]:
    """torchvision was compiled for the torch that is installed."""
    if not facts.works('torch') or facts.missing('torchvision') and facts.torch_alone():
        return
    torch_version = facts.version('torch').split('+')[0]
    needed = re.search(r'==\s*\(?([\d.]+)', facts.torchvision_needs)
    mend = pip('install', f'torchvision{fitting_torchvision(torch_version)}', f'torch{exactly(torch_version)}')
    if facts.missing('torchvision'):
        yield Problem('torchvision is not installed (mmcv, mmdet and mmpretrain need it)', mend)
    elif facts.error('torchvision'):
        yield Problem(f'torchvision does not work with torch {torch_version}: {facts.error("torchvision")}', mend)
    elif needed and needed.group(1) != torch_version:
        yield Problem(f'torchvision {facts.version("torchvision")} was made for torch {needed.group(1)}, but torch '
                      f'{torch_version} is installed', mend)


def check_opencv(facts: Facts) -> Iterator[Problem]:
    """One OpenCV, and one that needs no display libraries where there are none."""
    installed = facts.distributions.get('cv2', [])
    headless = pip('install', '--force-reinstall', '--no-deps', 'opencv-python-headless')
    swap = (pip('uninstall', '-y', *installed) + ' && ' if installed else '') + headless
    error = facts.error('cv2')
    if len(installed) > 1:
        yield Problem(f'{len(installed)} OpenCVs overwrite each other\'s files: {", ".join(installed)}', swap)
    elif facts.missing('cv2') and not facts.torch_alone():
        yield Problem('OpenCV is not installed', headless)
    elif error and any(library in error for library in DISPLAY_LIBRARIES):
        yield Problem(f'OpenCV needs display libraries that this machine lacks: {error}', swap)
    elif error and not facts.missing('cv2'):
        yield Problem(f'OpenCV cannot be imported: {error}', swap)


def check_pkg_resources(facts: Facts) -> Iterator[Problem]:
    """mmengine imports pkg_resources while it runs; setuptools dropped it in version 81."""
    if facts.error('pkg_resources') and not facts.missing('mmengine'):
        yield Problem(f'mmengine needs pkg_resources, which the installed setuptools lacks: '
                      f'{facts.error("pkg_resources")}', pip('install', 'setuptools<81'))


def check_hosts(facts: Facts) -> Iterator[Problem]:
    """The OpenMMLab packages import, and accept each other's versions."""
    if facts.torch_alone():
        return  # engine and layers need torch alone; the report says so
    for host in HOSTS:
        error = facts.error(host)
        if facts.missing(host):
            mend = build_mmcv(facts) if host == 'mmcv' else pip('install', host)
            yield Problem(f'{host} is not installed, but other OpenMMLab packages are', mend + ' (or the distribution '
                          'that provides it in the stack that you use)')
        elif error and not is_consequence(facts, host, error):
            yield refused(facts, host, error) or Problem(
                f'{host} cannot be imported: {error}',
                pip('install', '--force-reinstall', '--no-deps', facts.distribution(host)))


def is_consequence(facts: Facts, host: str, error: str) -> bool:
    """Whether a package fails only because another one does, which is reported by itself."""
    others = [name for name in REQUIRED[:REQUIRED.index(host)] if name != host]
    lacking = re.search(r'No module named .?(\w+)', error)
    return any(facts.error(name) == error for name in others) or bool(lacking and facts.missing(lacking.group(1)))


def refused(facts: Facts, host: str, error: str) -> Problem | None:
    """The finding for `AssertionError: MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0, <2.2.`"""
    asked = re.search(r'[Ii]nstall\s+(mmcv|mmengine)\s*([<>=!~][^\'"]*[\w*])', error)
    if not error.startswith('AssertionError') or not asked:
        return None
    package, versions = asked.group(1), asked.group(2).replace(' ', '')
    problem = f'{host} and {package} {facts.version(package)} refuse each other: {error}'
    if package == 'mmcv':
        return Problem(problem, build_mmcv(facts, versions=versions))
    return Problem(problem, pip('install', facts.distribution(package) + versions))


def check_ops(facts: Facts) -> Iterator[Problem]:
    """mmcv has compiled ops, and they were compiled for this torch."""
    error = facts.error('mmcv.ops')
    if not facts.works('mmcv') or not facts.works('torch') or not error:
        return
    lacking = re.search(r'No module named .?mmcv\.(_ext|ops)', error)
    why = 'was installed without its compiled ops' if lacking else 'has compiled ops that do not load with this torch'
    yield Problem(f'mmcv {facts.version("mmcv")} {why}, so detectors cannot run: {error}',
                  build_mmcv(facts, exactly(facts.version('mmcv'))))


def check_cuda_ops(facts: Facts) -> Iterator[Problem]:
    """Where torch uses a GPU, mmcv's ops must run there too."""
    torch, ops = facts.modules.get('torch', {}), facts.modules.get('mmcv.ops', {})
    if not torch.get('cuda') or not facts.works('mmcv.ops') or re.match(r'\d', str(ops.get('cuda_ops', ''))):
        return
    mend = build_mmcv(facts, exactly(facts.version('mmcv')), cuda=True)
    if not facts.nvcc:
        mend = f'install the CUDA toolkit {torch.get("cuda_build")} (it brings nvcc), then {mend}'
    yield Problem('a GPU is visible, but mmcv was compiled without its CUDA ops: detectors fail on the GPU at their '
                  'first NMS or RoIAlign', mend + '   (or train on the CPU: CUDA_VISIBLE_DEVICES= mmrev train ...)')


def check_registration(facts: Facts) -> Iterator[Problem]:
    """Where mmengine works, `mmrev.*` types and `mmrev::` configs are known to it."""
    if facts.works('mmengine') and facts.error('mmrev.registry'):
        yield Problem(f'mmrev cannot register its types with mmengine: {facts.error("mmrev.registry")}',
                      'install mmrev again: ' + pip('install', '--force-reinstall', '--no-deps', 'mmrev')
                      + ', or `-e .` in a clone')


def check_optional(facts: Facts) -> Iterator[Problem]:
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
    tools = pip('install', 'setuptools<81', 'wheel', 'ninja')
    build = pip('install', '--force-reinstall', '--no-deps', '--no-build-isolation', '--no-cache-dir', '--no-binary',
                name, name + versions)
    return f'{remove}{tools} && MMCV_WITH_OPS=1 {"FORCE_CUDA=1 " if cuda else ""}CFLAGS=-g0 {build}'


def fitting_torchvision(torch_version: str) -> str:
    """torchvision 0.(n + 15) belongs to torch 2.n."""
    match = re.match(r'2\.(\d+)', torch_version)
    return f'==0.{int(match.group(1)) + 15}.*' if match else ''


def exactly(version: str) -> str:
    """`==version`, or nothing for an unknown one."""
    return f'=={version.split("+")[0]}' if version else ''


def pip(*arguments: str) -> str:
    """A pip command of this interpreter, ready to be pasted."""
    return ' '.join(['python' if in_active_environment() else shlex.quote(sys.executable), '-m pip',
                     *(shlex.quote(argument) for argument in arguments)])


def in_active_environment() -> bool:
    """Whether `python` in the user's shell is this interpreter."""
    found = shutil.which('python')
    return found is not None and os.path.abspath(found) == os.path.abspath(sys.executable)


def report(facts: Facts, findings: list[Problem]) -> list[str]:
    """Lines of the report."""
    lines = ['Versions', row('python', platform.python_version(), sys.executable)]
    lines += [row(name, facts.version(name) or '-', state_of(facts, name)) for name in REQUIRED
              if name not in PARTS_OF_OTHERS]
    torch, ops = facts.modules.get('torch', {}), facts.modules.get('mmcv.ops', {})
    compiled = 'not loaded' if not facts.works('mmcv.ops') else f'loaded, CUDA: {ops.get("cuda_ops", "unknown")}'
    lines += ['Devices', row('cpu', f'{os.cpu_count()} cores', '')]
    lines += [row(f'device {index}', name, '') for index, name in enumerate(torch.get('devices', []))]
    lines += [row('mmcv ops', compiled, ''), 'Optional']
    lines += [row(name, facts.version(name) or '-', f'{state_of(facts, name)} ({purpose})')
              for name, (purpose, _) in OPTIONAL.items()]
    if facts.torch_alone():
        lines.append('Without OpenMMLab: mmrev.reversible, mmrev.layers and mmrev.testing work, models do not '
                     '(see "Set-up" in the README).')
    if not findings:
        return [*lines, 'Nothing is wrong.']
    lines.append(f'{len(findings)} {"thing is" if len(findings) == 1 else "things are"} wrong:')
    for number, finding in enumerate(findings, 1):
        lines += [f'  {number}. {finding.what}', f'     fix: {finding.fix}']
    return lines


def row(name: str, value: str, remark: str) -> str:
    """One line of a section."""
    return f'  {name:<12} {value:<14} {remark}'.rstrip()


def state_of(facts: Facts, name: str) -> str:
    """`ok`, `not installed` or `broken`, with the distribution where its name differs."""
    if facts.missing(name):
        return 'not installed'
    if facts.error(name):
        return 'broken'
    others = [found for found in facts.distributions.get(name, []) if found != name]
    return 'ok' + (f' ({", ".join(others)})' if others else '')


if __name__ == '__main__':
    sys.exit(main())
