"""The wheel of the working copy, and an environment that holds it. Nothing here needs a network."""
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OFFLINE_PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check']


def run(command, **kwargs):
    """Runs a command that must succeed; returns its standard output."""
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **kwargs)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def build_wheel(source, folder):
    """Builds a wheel of a source folder with the tools of this environment."""
    run([*OFFLINE_PIP, 'wheel', '--no-deps', '--no-index', '--no-build-isolation', '--wheel-dir', folder, source])
    wheel, = folder.glob('mmrev-*.whl')
    return wheel


def environment(folder):
    """The interpreter of a new environment in a folder, which sees the packages of this one, not the editable ones."""
    venv.create(folder / 'env', with_pip=False, symlinks=True)
    python = folder / 'env' / 'bin' / 'python'
    packages = run([python, '-c', 'import sysconfig; print(sysconfig.get_paths()["purelib"])']).strip()
    Path(packages, 'host.pth').write_text(sysconfig.get_paths()['purelib'] + '\n')  # its .pth files are not read
    return python


@pytest.fixture(scope='session')
def source(tmp_path_factory):
    """A copy of what a clone holds, so that builds leave nothing in the working copy."""
    copy = tmp_path_factory.mktemp('source') / 'mmrev'
    kept = ('mmrev', 'configs', 'tools', 'requirements', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'model-index.yml',
            'README.md', 'CHANGELOG.md', 'LICENSE', 'NOTICE', 'CITATION.cff')
    copy.mkdir()
    for name in kept:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope='session')
def wheel(source, tmp_path_factory):
    """The wheel of the working copy."""
    return build_wheel(source, tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='session')
def installed(wheel, tmp_path_factory):
    """Interpreter of a new environment that holds the wheel and sees the packages, not the mmrev, of this one."""
    python = environment(tmp_path_factory.mktemp('elsewhere'))
    run([*OFFLINE_PIP, '--python', python, 'install', '--no-deps', '--no-index', wheel])
    return python


def in_elsewhere(python, code, tmp_path):
    """Runs code in a folder that is not the repository."""
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    return run([python, '-W', 'ignore', '-c', code], cwd=tmp_path, env=environment).strip()
