"""What a wheel, a source distribution and an import of mmrev contain. Nothing here needs a network."""
import email
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import mmrev
from support.wheels import ROOT, build_wheel, in_elsewhere, run

pytestmark = pytest.mark.subprocess

TORCH_ONLY = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'cv2', 'torchvision')


def test_the_wheel_holds_configs_tools_and_index_as_real_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    for folder in ('configs', 'tools'):
        here = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob('*')
                if path.is_file() and not {'__pycache__', 'setup', 'docs'} & set(path.relative_to(ROOT).parts)}
        assert here <= {name.removeprefix('mmrev/.mim/') for name in held}
        assert all(held[f'mmrev/.mim/{name}'] == (ROOT / name).read_bytes() for name in here)
    assert held['mmrev/.mim/model-index.yml'] == (ROOT / 'model-index.yml').read_bytes()


def test_the_wheel_leaves_out_set_up_tests_and_caches(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [name for name in names if '__pycache__' in name or name.startswith('mmrev/.mim/tools/setup/')]
    assert {name.split('/')[0].split('-')[0] for name in names} == {'mmrev'}


def test_the_wheel_holds_the_license_and_says_that_it_is_typed(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name.split('dist-info/')[-1]: archive.read(name) for name in archive.namelist()}
    for name in ('LICENSE', 'NOTICE'):
        assert held[f'licenses/{name}'] == (ROOT / name).read_bytes()
    assert 'mmrev/py.typed' in held


def test_the_metadata_names_license_and_every_supported_pytorch(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name, = (name for name in archive.namelist() if name.endswith('dist-info/METADATA'))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata['License'] == 'Apache-2.0' and metadata['Summary'] and metadata.get_all('Classifier')
    needs = [Requirement(line) for line in metadata.get_all('Requires-Dist')]
    torch, = (need.specifier for need in needs if need.name == 'torch' and need.marker is None)
    tried = [pin.split('==')[1] for path in (ROOT / 'requirements').glob('torch*.txt')
             for pin in path.read_text().split() if pin.startswith('torch==')]
    assert len(tried) == 2 and all(torch.contains(version) for version in tried)


def test_the_versions_in_changelog_citation_and_docs_are_the_package_s():
    wheels = re.findall(r'mmrev-([\d.]+)-py3', (ROOT / 'docs/installation.md').read_text())
    assert wheels and set(wheels) == {mmrev.__version__}
    assert f'\n## {mmrev.__version__}\n' in (ROOT / 'CHANGELOG.md').read_text()
    assert yaml.safe_load((ROOT / 'CITATION.cff').read_text())['version'] == mmrev.__version__


def test_a_wheel_built_from_the_source_distribution_holds_the_same(source, wheel, tmp_path):
    run([sys.executable, 'setup.py', '-q', 'sdist', '--dist-dir', tmp_path], cwd=source)
    archive, = tmp_path.glob('mmrev-*.tar.gz')
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / 'unpacked')
    unpacked, = (tmp_path / 'unpacked').iterdir()
    again = build_wheel(unpacked, tmp_path)
    with zipfile.ZipFile(again) as second, zipfile.ZipFile(wheel) as first:
        assert sorted(second.namelist()) == sorted(first.namelist())


def test_an_installed_wheel_imports_from_its_own_place(installed, tmp_path):
    place = in_elsewhere(installed, 'import mmrev; print(mmrev.__file__)', tmp_path)
    assert str(installed.parents[1]) in place


def test_mmengine_finds_the_configs_of_an_installed_wheel(installed, tmp_path):
    code = ('import mmrev\nfrom mmengine.config import Config\nfrom pathlib import Path\n'
            'print(Config._get_cfg_path("mmrev::revbifpn/faster_rcnn_revbifpn_s3.py", "x.py")[0])')
    found = Path(in_elsewhere(installed, code, tmp_path))
    assert found.is_file() and installed.parents[1] in found.parents


def test_mmengine_finds_the_configs_of_this_installation(tmp_path):
    code = ('import mmrev\nfrom mmengine.config import Config\n'
            'print(Config._get_cfg_path("mmrev::revbifpn/faster_rcnn_revbifpn_s3.py", "x.py")[0])')
    assert Path(in_elsewhere(sys.executable, code, tmp_path)).is_file()


def test_the_version_is_stated_once(wheel):
    assert wheel.name.split('-')[1] == mmrev.__version__


def test_importing_mmrev_loads_neither_torch_nor_the_detectors(tmp_path):
    code = 'import sys, mmrev; print([name for name in ("torch", "mmcv", "mmdet") if name in sys.modules])'
    assert in_elsewhere(sys.executable, code, tmp_path) == '[]'


@pytest.mark.parametrize('part', ['mmrev', 'mmrev.reversible', 'mmrev.layers', 'mmrev.testing'])
def test_the_engine_imports_with_torch_alone(part, tmp_path):
    code = f'import sys\nsys.modules.update(dict.fromkeys({TORCH_ONLY!r}))\nimport {part}'
    in_elsewhere(sys.executable, code, tmp_path)


def test_a_broken_mmengine_leaves_the_engine_usable_and_says_so(tmp_path):
    (tmp_path / 'mmengine').mkdir()
    (tmp_path / 'mmengine' / '__init__.py').write_text('raise AttributeError("half installed")')
    code = ('import sys, warnings\nsys.path.insert(0, "")\nwarnings.simplefilter("error")\n'
            'try:\n    import mmrev\nexcept UserWarning as warning:\n    print(warning)')
    assert 'mmrev.doctor' in in_elsewhere(sys.executable, code, tmp_path)


def test_importing_mmrev_makes_its_scope_known_to_mmengine(tmp_path):
    code = 'import mmrev; from mmengine.registry import MODELS; print(MODELS.children["mmrev"].scope)'
    assert in_elsewhere(sys.executable, code, tmp_path) == 'mmrev'
