"""`mmrev doctor` names each thing that is wrong and a command that fixes it, however broken the packages are."""
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from mmrev.diagnosis import MACHINE, machine, problems
from mmrev.diagnosis.machine import Facts

ROOT = Path(__file__).parents[2]

HEALTHY = {
    'torch': '''
        class version: cuda = None
        class cuda:
            @staticmethod
            def is_available(): return False
        class Tensor:
            def numpy(self): return self
        def zeros(*shape): return Tensor()
        ones = tensor = zeros
        __version__ = '2.11.0+cpu'
        ''',
    'torchvision': '''
        class ops:
            @staticmethod
            def nms(*args): pass
        __version__ = '0.26.0'
        ''',
    'numpy': "__version__ = '2.4.6'",
    'cv2': "__version__ = '5.0.0'",
    'mmengine': "__version__ = '0.10.7'",
    # The doctor itself is the real one, what mmrev registers is not: it needs a real mmengine.
    'mmrev': f'__path__.append({str(ROOT / "mmrev")!r})',
    'mmrev/registry': '',
    'mmcv': "__version__ = '2.1.0'",
    'mmcv/ops': '''
        def nms(*args): pass
        def get_compiling_cuda_version(): return 'not available'
        ''',
    'mmdet': "__version__ = '3.3.0'",
    'mmpretrain': "__version__ = '1.2.0'", 'mmseg': '',
    'pkg_resources': '',
    'tensorboard': '', 'matplotlib': '', 'sklearn': '',
    'inplace_abn': 'raise ModuleNotFoundError("No module named \'inplace_abn\'", name="inplace_abn")',
}


def absent(name):
    """Source of a module that behaves as if it were not installed."""
    return f'raise ModuleNotFoundError("No module named {name!r}", name="{name}")'


def run_doctor(folder, output=subprocess.PIPE, **changes):
    """Runs the doctor as users do, on stand-ins for every package; returns its status and what it says."""
    for name, source in {**HEALTHY, **{key.replace('__', '/'): text for key, text in changes.items()}}.items():
        package = folder / name
        package.mkdir(parents=True, exist_ok=True)
        lines = source.strip('\n').splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
        (package / '__init__.py').write_text('\n'.join(line[indent:] for line in lines) + '\n')
    metadata = folder / 'torchvision-0.26.0.dist-info' / 'METADATA'
    metadata.parent.mkdir(exist_ok=True)
    metadata.write_text('Metadata-Version: 2.1\nName: torchvision\nVersion: 0.26.0\nRequires-Dist: torch==2.11.0\n')
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]), PATH='/nowhere')
    ended = subprocess.run([sys.executable, '-m', 'mmrev.doctor'], stdout=output, stderr=subprocess.PIPE, text=True,
                           cwd=folder, env=environment, check=False)
    assert 'Traceback' not in ended.stderr, ended.stderr
    return ended.returncode, (ended.stdout or '') + ended.stderr


def facts(distributions=None, **changes):
    """Facts of a healthy machine with some answers of the probe replaced."""
    modules = {name: {'module': name, 'version': '1'} for name in (*machine.REQUIRED, *machine.OPTIONAL)}
    modules['torch'].update(version='2.11.0', cuda=False, cuda_build='13.0', devices=[])
    modules['torchvision']['version'] = '0.26.0'
    modules['mmcv']['version'] = '2.1.0'
    modules['mmcv.ops']['cuda_ops'] = 'not available'
    for name, answer in changes.items():
        modules[name.replace('__', '.')].update(answer)
    return Facts(modules, distributions or {})


def missing(name):
    """Answer of the probe for a package that is not installed."""
    return {'error': f"ModuleNotFoundError: No module named '{name}'", 'missing': True}


def diagnose(known):
    return list(problems(MACHINE, known))


def only_finding(found):
    """The one thing that is wrong."""
    assert len(found) == 1, found
    return found[0]


@pytest.mark.subprocess
def test_a_healthy_machine_has_no_findings(tmp_path):
    status, output = run_doctor(tmp_path)
    assert status == 0, output
    assert 'No problems found' in output


@pytest.mark.subprocess
def test_a_full_disk_for_the_report_is_named_in_one_line(tmp_path):
    with open('/dev/full', 'w') as full:
        status, errors = run_doctor(tmp_path, output=full)
    assert (status, errors) == (1, 'mmrev doctor: error: writing the output: No space left on device\n')


BROKEN = {
    'mmdet_refuses_mmcv': (
        {'mmcv': "__version__ = '2.2.0'", 'mmdet': 'raise AssertionError("MMCV==2.2.0 is used but incompatible. '
         'Please install mmcv>=2.0.0rc4, <2.2.0.")'}, 'MMCV==2.2.0 is used but incompatible', 'mmcv>=2.0.0rc4,<2.2.0'),
    'mmcv_without_ops': (
        {'mmcv__ops': 'import mmcv._ext'}, "mmcv.ops cannot be imported: ModuleNotFoundError: No module named 'mmcv._",
        'MMCV_WITH_OPS=1'),
    'ops_for_another_torch': (
        {'mmcv__ops': 'raise ImportError("_ext.so: undefined symbol: _ZN3c10")'},
        'mmcv.ops cannot be imported: ImportError: _ext.so: undefined symbol',
        '--no-binary'),
    'display_library': (
        {'cv2': 'raise ImportError("libGL.so.1: cannot open shared object file")'}, 'libGL.so.1',
        'opencv-python-headless'),
    'setuptools_81': ({'pkg_resources': absent('pkg_resources')}, 'pkg_resources', "'setuptools<81'"),
    'torchvision_of_another_torch': (
        {'torchvision': 'raise RuntimeError("operator torchvision::nms does not exist")'},
        'torchvision cannot be imported', "'torchvision==0.26.*'"),
    'no_registration': ({'mmrev__registry': 'raise ImportError("half installed")'}, 'mmrev.registry cannot be',
                        '--no-deps mmrev'),
    'missing_part': ({'mmpretrain': absent('mmpretrain')}, 'mmpretrain is not installed',
                     f'install {packages_distributions()["mmpretrain"][0]}'),
    'torch_missing': ({'torch': absent('torch')}, 'torch is not installed', 'install torch'),
    'crash_on_import': ({'mmpretrain': 'import os; os.abort()'}, 'ended the process with status', 'mmpretrain'),
    'exit_on_import': ({'mmpretrain': 'raise SystemExit(3)'}, 'mmpretrain cannot be imported', 'mmpretrain'),
    'broken_option': ({'inplace_abn': 'raise OSError("libcudart.so.10")'}, 'inplace_abn cannot be imported',
                      'uninstall -y inplace-abn'),
}


@pytest.mark.subprocess
@pytest.mark.parametrize('case', BROKEN)
def test_a_broken_package_is_named_with_what_fixes_it(tmp_path, case):
    changes, problem, fix = BROKEN[case]
    status, output = run_doctor(tmp_path, **changes)
    assert status == 1, output
    assert problem in output
    assert fix in output.split('found:')[1]


def test_a_gpu_without_cuda_ops_is_a_finding_that_names_the_build_with_them():
    found = diagnose(facts(torch={'cuda': True, 'devices': ['GPU']}))
    finding = only_finding(found)
    assert 'without its CUDA ops' in finding.what
    assert 'FORCE_CUDA=1' in finding.fix and 'CUDA toolkit 13.0' in finding.fix


GPU = '''
    class version: cuda = '13.0'
    class cuda:
        is_available = staticmethod(lambda: True)
        device_count = staticmethod(lambda: 1)
        get_device_name = staticmethod(lambda i: 'NVIDIA H100')
        synchronize = staticmethod(lambda i: None)
    class Tensor:
        device = 'cpu'
        def numpy(self): return self
        def to(self, device):
            moved = Tensor()
            moved.device = device
            return moved
    def zeros(*shape): return Tensor()
    ones = tensor = zeros
    __version__ = '2.11.0'
    '''
OPS = '''
    def nms(boxes, *args):
        if boxes.device {}: raise RuntimeError('CUDA error: no kernel image is available')
    def get_compiling_cuda_version(): return '13.0'
    '''


@pytest.mark.subprocess
@pytest.mark.parametrize('fails, status', [("== 'cuda:0'", 1), ("== 'elsewhere'", 0)])
def test_ops_that_were_compiled_for_another_gpu_are_a_finding(tmp_path, fails, status):
    """They load and run on the CPU."""
    found, output = run_doctor(tmp_path, torch=GPU, mmcv__ops=OPS.format(fails))
    assert found == status, output
    assert ('do not run on NVIDIA H100: RuntimeError: CUDA error: no kernel image' in output) is bool(status)
    assert ('FORCE_CUDA=1' in output) is bool(status)


def test_a_gpu_with_cuda_ops_is_fine():
    assert not diagnose(facts(torch={'cuda': True}, mmcv__ops={'cuda_ops': '13.0'}))


def test_a_gpu_that_torch_cannot_use_is_a_finding(monkeypatch):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    known = facts()
    known.gpus = ('GPU 0: some card',)
    assert 'torch cannot use' in only_finding(diagnose(known)).what


def test_two_opencvs_are_replaced_by_one_without_display():
    finding = only_finding(diagnose(facts({'cv2': ['opencv-python', 'opencv-python-headless']})))
    assert 'uninstall -y opencv-python opencv-python-headless' in finding.fix
    assert finding.fix.endswith('opencv-python-headless')


def test_torchvision_made_for_another_torch_is_found_from_its_metadata():
    known = facts()
    known.torchvision_needs = 'torch==2.9.1'
    finding = only_finding(diagnose(known))
    assert 'built for torch 2.9.1' in finding.what
    assert 'torchvision==0.26.*' in finding.fix


def test_mmcv_lite_is_replaced_by_mmcv_with_ops():
    known = facts({'mmcv': ['mmcv-lite']}, mmcv__ops={'error': "ModuleNotFoundError: No module named 'mmcv._ext'"})
    fix = only_finding(diagnose(known)).fix
    assert 'uninstall -y mmcv-lite' in fix
    assert 'mmcv==2.1.0' in fix and 'mmcv-lite==' not in fix


def test_numpy_of_another_generation_than_torch_is_a_finding():
    finding = only_finding(diagnose(facts(torch={'numpy_error': 'RuntimeError: Numpy is not available'})))
    assert 'numpy<2' in finding.fix


def test_torch_alone_is_fine():
    changes = {name: missing(name) for name in (*machine.HOSTS, 'pkg_resources', 'cv2', 'torchvision')}
    assert not diagnose(facts(mmcv__ops=missing('mmcv'), **changes))


def test_a_consequence_is_not_reported_beside_its_cause():
    display = {'error': 'ImportError: libGL.so.1: cannot open shared object file'}
    finding = only_finding(diagnose(facts(cv2=display, mmcv=display, mmcv__ops=display, mmdet=display)))
    assert finding.what.startswith('cv2 ')


def test_a_fork_under_another_distribution_name_is_fixed_under_that_name():
    known = facts({'mmcv': ['some-mmcv']}, mmcv__ops={'error': "ModuleNotFoundError: No module named 'mmcv._ext'"})
    assert 'some-mmcv==2.1.0' in only_finding(diagnose(known)).fix
