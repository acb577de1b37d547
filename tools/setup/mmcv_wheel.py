"""Builds mmcv with its compiled ops from the source distribution, once per torch and Python, and keeps the wheel."""
import fcntl
import glob
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile

from console import SetupError
from machine import check_compiler, cuda_target, usable_jobs

HERE = os.path.dirname(os.path.abspath(__file__))
NINJA_STEP = re.compile(r'^\s*\[(\d+)/(\d+)\] ')


def cache_root():
    """Folder of the wheels that are kept: MMREV_WHEELS, else mmrev/wheels in the user's cache folder."""
    chosen = os.environ.get('MMREV_WHEELS')
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return os.path.abspath(chosen) if chosen else os.path.join(cache, 'mmrev', 'wheels')


def is_cached(pin, python_tag, torch_pin):
    """Whether a wheel for that version of torch is in the cache, before torch is installed."""
    pattern = os.path.join(cache_root(), f'torch-{torch_pin}*-{python_tag}-*', folder_of(pin), '*.whl')
    return bool(glob.glob(pattern))


def folder_of(pin):
    """`mmcv==2.1.0` as a folder name."""
    return pin.replace('==', '-')


def mmcv_wheel(pin, python, console):
    """Returns the wheel of mmcv for the torch that `python` imports, building it if the cache has none.

    Args:
        pin: requirement of the form `name==version`.
        python: interpreter of the environment; has torch, setuptools, wheel and ninja.
        console: where progress goes.
    """
    cuda = cuda_target(python)
    folder = os.path.join(cache_root(), _torch_key(python, cuda), folder_of(pin))
    try:
        os.makedirs(folder, exist_ok=True)
        lock = open(os.path.join(folder, '.lock'), 'w', encoding='utf-8')
    except OSError as error:
        raise SetupError(f'cannot write {folder} ({error.strerror}).\n'
                         '  Set MMREV_WHEELS to a folder that can be written.') from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for wheel in glob.glob(os.path.join(folder, '*.whl')):
            if zipfile.is_zipfile(wheel):
                console.say(f'      built before: {wheel}')
                return wheel
        return _build(pin, python, folder, cuda, console)


def _torch_key(python, cuda):
    """What a compiled extension of torch depends on, as a folder name."""
    probe = ('import platform, sys, torch; print(torch.__version__, '
             'f"cp{sys.version_info[0]}{sys.version_info[1]}", platform.machine())')
    answer = subprocess.run([python, '-c', probe], capture_output=True, text=True, check=True).stdout
    version, tag, machine = answer.split()
    return f'torch-{version}-{tag}-{machine}-{cuda or "cpu"}'


def _build(pin, python, folder, cuda, console):
    """Builds in a temporary folder and moves the wheel into `folder` when it is complete."""
    compiler = check_compiler()
    jobs = usable_jobs()
    console.say(f'      compiling with {compiler}, {jobs} at once, {"with" if cuda else "without"} CUDA ops; '
                f'output: {console.log_path}')
    for killed in glob.glob(os.path.join(folder, 'build-*')):
        shutil.rmtree(killed, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix='build-', dir=folder, ignore_cleanup_errors=True) as work:
        source = _source(pin, python, work, console)
        environment = _build_environment(python, compiler, jobs, cuda, work)
        command = [python, '-m', 'pip', 'wheel', '--verbose', '--no-deps', '--no-build-isolation',
                   '--wheel-dir', os.path.join(work, 'wheel'), source]
        status, tail = console.run(command, env=environment, show=_show_objects)
        if status:
            raise SetupError('\n'.join(tail) + f'\nthe build of {pin} failed; all of its output is in '
                             f'{console.log_path}.\n  Out of memory? MAX_JOBS=1 builds one file at a time.')
        wheel, = glob.glob(os.path.join(work, 'wheel', '*.whl'))
        _require_ops(wheel, pin)
        kept = os.path.join(folder, os.path.basename(wheel))
        shutil.copyfile(wheel, kept + '.part')
        os.replace(kept + '.part', kept)
    console.say(f'      kept for the next environment: {kept}')
    return kept


def _source(pin, python, work, console):
    """Downloads and unpacks the source distribution.

    pip keeps wheels that it builds by itself under a key without torch's version; building from an unpacked folder
    avoids them.
    """
    status, tail = console.run([python, '-m', 'pip', 'download', '--no-deps', '--no-build-isolation', '--no-binary',
                                ':all:', '--dest', work, pin])
    if status:
        raise SetupError('\n'.join(tail) + f'\nthe source distribution of {pin} could not be downloaded.')
    archive, = glob.glob(os.path.join(work, '*.tar.gz'))
    unpacked = os.path.join(work, 'source')
    with tarfile.open(archive) as opened:
        opened.extractall(unpacked)
    inner, = os.listdir(unpacked)
    return os.path.join(unpacked, inner)


def _build_environment(python, compiler, jobs, cuda, work):
    """Environment variables of the build: mmcv's own choice (-O3), less debug information and repeated parsing."""
    header_dir = os.path.join(work, 'header')
    os.makedirs(header_dir)
    environment = dict(os.environ, MMCV_WITH_OPS='1', MAX_JOBS=str(jobs), FORCE_CUDA='1' if cuda else '0',
                       CXX=os.path.join(HERE, 'cxx_pch.sh'), MMREV_CXX=compiler, MMREV_PCH_DIR=header_dir,
                       PATH=os.path.dirname(python) + os.pathsep + os.environ.get('PATH', ''))
    environment['CFLAGS'] = os.environ.get('CFLAGS', '') + ' -g0 -w'
    if not cuda:
        # If a GPU is visible, mmcv's build would require a CUDA compiler that is not installed.
        environment['CUDA_VISIBLE_DEVICES'] = ''
    return environment


def _show_objects(line):
    """`[3/77] c++ ...` of ninja as a progress text."""
    step = NINJA_STEP.match(line)
    return f'mmcv: {step.group(1)} of {step.group(2)} objects' if step else None


def _require_ops(wheel, pin):
    """mmcv's build without torch silently leaves the ops out."""
    with zipfile.ZipFile(wheel) as archive:
        if not any(name.startswith('mmcv/_ext') for name in archive.namelist()):
            raise SetupError(f'the build of {pin} made no compiled ops (torch did not import during the build?).')
