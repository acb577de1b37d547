"""The set-up does not mistake an incomplete environment for a complete one, and says what a machine lacks."""
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / 'tools' / 'setup'
CHOSEN = SimpleNamespace(stack='openmmlab', env='.venv', chosen_python=True)
ANY = SimpleNamespace(stack='openmmlab', env='.venv', chosen_python=False)


def load(name):
    """Imports a module of tools/setup, which is no package."""
    sys.path.insert(0, str(TOOLS))
    try:
        spec = importlib.util.spec_from_file_location(name, TOOLS / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(TOOLS))
    return module


setup_env = load('setup_env')
mmcv_wheel = load('mmcv_wheel')


@pytest.fixture
def env(tmp_path):
    """An environment folder with a pip, as far as the set-up looks."""
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'python').symlink_to(sys.executable)
    metadata = tmp_path / 'lib' / 'python3.11' / 'site-packages' / 'pip-24.0.dist-info'
    metadata.mkdir(parents=True)
    (metadata / 'INSTALLER').write_text('pip')
    return tmp_path


@pytest.mark.subprocess
def test_an_environment_counts_as_ready_only_once_it_says_so(env):
    assert not setup_env.is_ready(str(env), ANY)
    setup_env.write_ready(str(env), ANY)
    assert setup_env.is_ready(str(env), ANY)
    assert setup_env.is_ready(str(env), CHOSEN)


@pytest.mark.subprocess
def test_other_pins_or_another_folder_make_an_environment_unready(env, monkeypatch):
    setup_env.write_ready(str(env), ANY)
    monkeypatch.setattr(setup_env, 'stack_file', lambda stack: str(ROOT / 'requirements' / 'onedl.txt'))
    assert not setup_env.is_ready(str(env), ANY)
    monkeypatch.undo()
    monkeypatch.setattr(setup_env, 'ROOT', '/moved')
    monkeypatch.setattr(setup_env, 'description', lambda stack, version: {'root': '/moved'})
    assert not setup_env.is_ready(str(env), ANY)


@pytest.mark.subprocess
def test_a_chosen_python_of_another_version_makes_an_environment_unready(env, monkeypatch):
    setup_env.write_ready(str(env), ANY)
    monkeypatch.setattr(setup_env, 'running_version', lambda: '3.99')
    assert setup_env.is_ready(str(env), ANY)
    assert not setup_env.is_ready(str(env), CHOSEN)


def test_a_package_whose_installation_was_killed_is_installed_again(env):
    packages = env / 'lib' / 'python3.11' / 'site-packages'
    (packages / 'torch-2.11.0.dist-info').mkdir()
    (packages / 'torch-2.11.0.dist-info' / 'METADATA').write_text('Name: torch')
    (packages / '~umpy').mkdir()
    setup_env.forget_unfinished(str(env))
    assert [path.name for path in packages.iterdir()] == ['pip-24.0.dist-info']


def test_an_environment_whose_pip_is_unfinished_is_not_kept(env):
    assert setup_env.has_pip(str(env))
    (env / 'lib' / 'python3.11' / 'site-packages' / 'pip-24.0.dist-info' / 'INSTALLER').unlink()
    assert not setup_env.has_pip(str(env))


def fake_python(folder, version):
    """A `python3` that is too new and says so."""
    folder.mkdir()
    script = folder / 'python3'
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit 1\n')
    script.chmod(0o755)
    for name in ('dirname', 'cat', 'sh'):
        (folder / name).symlink_to(subprocess.run(['sh', '-c', f'command -v {name}'], capture_output=True, text=True,
                                                  check=True).stdout.strip())
    return folder


@pytest.mark.subprocess
@pytest.mark.parametrize('chosen', ['', 'python3'])
def test_an_unsupported_python_is_refused_with_the_way_out(tmp_path, chosen):
    path = fake_python(tmp_path / 'bin', '3.13.1')
    ended = subprocess.run([str(TOOLS / 'setup.sh')], capture_output=True, text=True, check=False,
                           env={'PATH': str(path), 'PYTHON': chosen})
    assert ended.returncode == 2
    assert '3.13.1' in ended.stderr and '3.12' in ended.stderr


def test_a_stack_replaces_the_pins_that_it_states_itself():
    torch, common, hosts = setup_env.read_stack('torch21')
    assert torch == ['torch==2.1.2', 'torchvision==0.16.2']
    assert [pin for pin in common if setup_env.name_of(pin) == 'numpy'] == ['numpy==1.26.4']
    assert hosts == setup_env.read_stack('openmmlab')[2]
    assert {setup_env.name_of(pin) for pin in common} == {
        setup_env.name_of(pin) for pin in setup_env.read_stack('openmmlab')[1]}


def test_stacks_differ_in_what_their_environments_depend_on():
    described = [setup_env.description(stack, '3.11')['pins'] for stack in ('openmmlab', 'torch21', 'onedl')]
    assert len(set(described)) == 3


@pytest.mark.subprocess
def test_pytorch_2_1_is_refused_on_a_python_without_wheels_of_it(tmp_path):
    fake = tmp_path / 'python3'
    fake.write_text('#!/bin/sh\necho "Python 3.12.1"\nexec ' + sys.executable + ' -c '
                    '"import sys; sys.version_info = (3, 12); exec(sys.argv[1])" "$2"\n')
    fake.chmod(0o755)
    refused = subprocess.run([TOOLS / 'setup.sh', '--stack', 'torch21'], env=dict(os.environ, PYTHON=str(fake)),
                             capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and '3.10 or 3.11' in refused.stderr


def test_a_machine_without_compiler_is_told_what_to_install(monkeypatch):
    machine = load('machine')
    monkeypatch.setenv('PATH', '/nowhere')
    monkeypatch.delenv('CXX', raising=False)
    with pytest.raises(Exception, match=r'apt install g\+\+'):
        machine.check_compiler()


def test_a_python_without_venv_is_told_what_to_install(monkeypatch):
    machine = load('machine')
    monkeypatch.setitem(sys.modules, 'ensurepip', None)
    with pytest.raises(Exception, match=r'apt install python3\.\d+-venv'):
        machine.check_venv_module()


@pytest.fixture
def machine_with(monkeypatch):
    """`machine.py` on a machine with a torch, a CUDA compiler and GPUs, as its probe would tell."""
    machine = load('machine')
    for name in ('MMREV_CUDA_OPS', 'TORCH_CUDA_ARCH_LIST'):
        monkeypatch.delenv(name, raising=False)

    def prepare(answer, **variables):
        monkeypatch.setattr(machine.subprocess, 'run', lambda *args, **kwargs: SimpleNamespace(stdout=answer))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return machine

    return prepare


@pytest.mark.parametrize('answer, variables, target', [
    ('13.0 13.0 9.0', {}, 'cuda13.0-nvcc13.0-sm9.0'),
    ('13.0 13.1 8.0;9.0', {}, 'cuda13.0-nvcc13.1-sm8.0_9.0'),
    ('13.0 13.0 9.0', dict(TORCH_CUDA_ARCH_LIST='8.0 9.0+PTX'), 'cuda13.0-nvcc13.0-sm8.0_9.0+PTX'),
    ('13.0 13.0 -', dict(MMREV_CUDA_OPS='1', TORCH_CUDA_ARCH_LIST='8.0;9.0'), 'cuda13.0-nvcc13.0-sm8.0_9.0'),
    ('13.0 13.0 -', dict(TORCH_CUDA_ARCH_LIST='9.0'), ''), ('13.0 13.0 -', {}, ''), ('13.0 - 9.0', {}, ''),
    ('13.0 12.4 9.0', {}, ''), ('13.0 13.0 9.0', dict(MMREV_CUDA_OPS='0'), ''), ('', {}, '')
])
def test_a_wheel_is_kept_for_the_compiler_and_the_gpus_that_it_was_built_for(machine_with, answer, variables, target):
    assert machine_with(answer, **variables).cuda_target('python') == target


def test_wheels_for_different_gpus_lie_in_different_folders(monkeypatch):
    monkeypatch.setattr(mmcv_wheel.subprocess, 'run', lambda *args, **kwargs: SimpleNamespace(stdout='2.11 cp311 x'))
    targets = ('', 'cuda13.0-nvcc13.0-sm8.0', 'cuda13.0-nvcc13.0-sm9.0')
    assert len({mmcv_wheel._torch_key('python', target) for target in targets}) == 3


@pytest.mark.parametrize('answer, what', [('13.0 13.0 -', 'TORCH_CUDA_ARCH_LIST='), ('13.0 - 9.0', 'CUDA_HOME')])
def test_cuda_ops_that_cannot_be_compiled_are_refused_before_the_build(machine_with, answer, what):
    machine = machine_with(answer, MMREV_CUDA_OPS='1')
    with pytest.raises(Exception, match=what):
        machine.cuda_target('python')


@pytest.mark.subprocess
def test_the_probe_for_cuda_runs_with_the_torch_that_is_installed(monkeypatch):
    machine = load('machine')
    answer = subprocess.run([sys.executable, '-c', machine._CUDA_PROBE], capture_output=True, text=True, check=True)
    assert len(answer.stdout.split()) == 3


def test_ninja_steps_become_progress():
    assert mmcv_wheel._show_objects('  [12/77] c++ -c a.cpp') == 'mmcv: 12 of 77 objects'
    assert mmcv_wheel._show_objects('creating build') is None


@pytest.mark.subprocess
def test_the_compiler_wrapper_compiles_without_a_usable_header(tmp_path):
    source = tmp_path / 'a.cpp'
    source.write_text('int main() { return 0; }\n')
    (tmp_path / 'header').mkdir()
    environment = dict(os.environ, MMREV_CXX='c++', MMREV_PCH_DIR=str(tmp_path / 'header'))
    # torch's headers are not on the include path here, so the header cannot be precompiled.
    command = [str(TOOLS / 'cxx_pch.sh'), '-c', str(source), '-o', str(tmp_path / 'a.o')]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
    assert (tmp_path / 'a.o').exists()
