"""Checks of the machine before anything is downloaded; each failure says how to mend it."""
import os
import shutil
import subprocess
import sys
import sysconfig

from console import SetupError

NEEDED_GIGABYTES = 8


def check_venv_module():
    """Debian and Ubuntu ship Python without `ensurepip` unless python3-venv is installed."""
    minor = f'{sys.version_info[0]}.{sys.version_info[1]}'
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        raise SetupError(f'{sys.executable} cannot make virtual environments ({error}).\n'
                         f'  Debian/Ubuntu: sudo apt install python{minor}-venv') from error


def check_compiler():
    """mmcv is compiled here: a C++ compiler and Python's headers are needed.

    Returns:
        Command of the compiler.
    """
    minor = f'{sys.version_info[0]}.{sys.version_info[1]}'
    compiler = os.environ.get('CXX') or shutil.which('c++') or shutil.which('g++') or shutil.which('clang++')
    if not compiler or not shutil.which(compiler.split()[0]):
        raise SetupError('no C++ compiler found, and mmcv has to be compiled.\n'
                         '  Debian/Ubuntu: sudo apt install g++    (or set CXX to one of your own)')
    header = os.path.join(sysconfig.get_paths()['include'], 'Python.h')
    if not os.path.exists(header):
        raise SetupError(f'the headers of Python {minor} are missing ({header}), and mmcv has to be compiled.\n'
                         f'  Debian/Ubuntu: sudo apt install python{minor}-dev')
    return compiler


def check_space(folder):
    """torch from PyPI brings its CUDA libraries on x86_64: some 6 GB."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < NEEDED_GIGABYTES:
        raise SetupError(f'only {free:.1f} GB are free in {folder}; the environment takes about '
                         f'{NEEDED_GIGABYTES - 1} GB.\n  Free some, or put the clone on another disk.')


def usable_jobs():
    """Compilers to run at once: one per usable core, each with 1 GB of memory."""
    if os.environ.get('MAX_JOBS'):
        return int(os.environ['MAX_JOBS'])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    try:
        memory = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (ValueError, OSError):
        return cores
    return max(1, min(cores, int(memory / 1e9)))


def can_build_cuda_ops(python):
    """Whether torch sees a GPU and a CUDA compiler of its own major version is at hand.

    Args:
        python: interpreter of the environment, with torch installed.
    """
    choice = os.environ.get('MMREV_CUDA_OPS', 'auto')
    if choice in ('0', '1'):
        return choice == '1'
    probe = ('import re, subprocess, sys, torch; from torch.utils.cpp_extension import CUDA_HOME\n'
             'assert torch.cuda.is_available() and CUDA_HOME\n'
             'text = subprocess.run([CUDA_HOME + "/bin/nvcc", "--version"], capture_output=True, text=True).stdout\n'
             'release = re.search(r"release (\\d+)", text).group(1)\n'
             'sys.exit(release != torch.version.cuda.split(".")[0])')
    return subprocess.run([python, '-c', probe], capture_output=True, check=False).returncode == 0
