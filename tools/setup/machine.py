"""Checks of the machine before anything is downloaded; each failure states how to fix it."""
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
    """torch from PyPI brings its CUDA libraries on x86_64: about 6 GB."""
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


_CUDA_PROBE = """
import re, subprocess, torch
from torch.utils.cpp_extension import CUDA_HOME
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
found = sorted({torch.cuda.get_device_capability(i) for i in range(count)})
nvcc = [(CUDA_HOME or "") + "/bin/nvcc", "--version"]
text = subprocess.run(nvcc, capture_output=True, text=True).stdout if CUDA_HOME else ""
release = re.search(r"release ([\\d.]+)", text)
print(torch.version.cuda or "-", release.group(1) if release else "-", ";".join("%d.%d" % x for x in found) or "-")
"""


def cuda_target(python):
    """What mmcv's CUDA ops would be compiled for, as part of a folder's name; empty for ops on the CPU only.

    They are compiled if torch finds a GPU and a CUDA compiler of the same major version is installed;
    ``MMREV_CUDA_OPS=0`` or ``1`` decides otherwise. Architectures are those of the visible GPUs, or
    ``TORCH_CUDA_ARCH_LIST``.

    Args:
        python: interpreter of the environment, with torch installed.

    Raises:
        SetupError: for ``MMREV_CUDA_OPS=1`` without a compiler or an architecture.
    """
    choice = os.environ.get('MMREV_CUDA_OPS', 'auto')
    if choice == '0':
        return ''
    answer = subprocess.run([python, '-c', _CUDA_PROBE], capture_output=True, text=True, check=False).stdout.split()
    cuda, nvcc, visible = answer if len(answer) == 3 else ('-', '-', '-')
    architectures = os.environ.get('TORCH_CUDA_ARCH_LIST') or visible
    if choice != '1':
        if visible == '-' or nvcc == '-' or nvcc.split('.')[0] != cuda.split('.')[0]:
            return ''
    elif nvcc == '-':
        raise SetupError('MMREV_CUDA_OPS=1, but no CUDA compiler was found.\n  Install the CUDA toolkit '
                         f'{cuda}, or set CUDA_HOME to where it is.')
    elif architectures == '-':
        raise SetupError('MMREV_CUDA_OPS=1, but no GPU is visible that the ops could be compiled for.\n  Name the '
                         'architectures, e.g. TORCH_CUDA_ARCH_LIST="8.0;9.0" for A100 and H100.')
    return f'cuda{cuda}-nvcc{nvcc}-sm{"_".join(architectures.replace(";", " ").split())}'
