"""The converter as a command: what it makes of each form of a checkpoint, and what it refuses."""
import argparse
import hashlib
import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint

from mmrev.checkpoints import published
from mmrev.registry import MODELS

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'model_converters' / 'revbifpn_to_mmrev.py'


class Malice:
    """What a pickle can do when it is loaded."""

    def __reduce__(self):
        return os.system, ('touch malice_was_here', )


def forms(weights) -> dict:
    """The checkpoint in every form that is accepted."""
    wrapped = {f'module.{key}': value for key, value in weights.items()}
    zeros = {key: torch.zeros_like(value) for key, value in weights.items()}
    return {
        'plain.pth.tar': weights,
        'nested.pth.tar': dict(state_dict=weights),
        'module.pth.tar': dict(state_dict=wrapped),
        'timm.pth.tar': dict(epoch=349, arch='revbifpn_s0', state_dict=wrapped, args=argparse.Namespace(lr=0.1)),
        'averaged.pth.tar': dict(state_dict=zeros, state_dict_ema=wrapped),
        'legacy_tar': weights,
    }


def write_mistakes(folder: Path, weights) -> None:
    """Everything that must be refused."""
    torch.save(dict(weights, extra=Malice()), folder / 'malicious.pth.tar')
    (folder / 'pickled.pth.tar').write_bytes(pickle.dumps(Malice()))
    torch.save({'conv1.weight': torch.zeros(3), 'fc.bias': torch.zeros(3)}, folder / 'foreign.pth.tar')
    torch.save(dict(weights, surplus=torch.zeros(3)), folder / 'surplus.pth.tar')
    torch.save(torch.zeros(3), folder / 'tensor.pth.tar')
    torch.save({'state_dict': {'rev_stack.1.rev_transform_0.f.xform_0_1.dw_conv.conv.weight': 3}},
               folder / 'number.pth.tar')
    torch.save(dict(state_dict={'backbone.stages.couplings.0.silo.down.0_1.dw': torch.zeros(3)}), folder / 'ours.pth')
    torch.save(weights, folder / 'revbifpn_s0.pth.tar')
    whole = (folder / 'revbifpn_s0.pth.tar').read_bytes()
    (folder / 'truncated.pth.tar').write_bytes(whole[:len(whole) // 2])
    (folder / 'empty.pth.tar').touch()


@pytest.fixture(scope='module')
def folder(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp('checkpoints')
    for name, content in forms(weights).items():
        torch.save(content, path / name, _use_new_zipfile_serialization=name != 'legacy_tar')
    write_mistakes(path, weights)
    return path


@pytest.fixture(scope='module')
def tool():
    """The command as a function of its arguments, without a process of its own."""
    spec = importlib.util.spec_from_file_location('revbifpn_to_mmrev', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


ACCEPTED = ('plain.pth.tar', 'nested.pth.tar', 'module.pth.tar', 'timm.pth.tar', 'averaged.pth.tar', 'legacy_tar')


@pytest.fixture(scope='module')
def plain(tool, folder):
    """A converted file."""
    assert tool(folder / 'plain.pth.tar', folder / 'plain.pth') == 0
    return folder / 'plain.pth'


@pytest.mark.slow
@pytest.mark.parametrize('name', ACCEPTED)
def test_every_form_is_converted_into_a_file_that_mmengine_loads_strictly(tool, folder, name, converted, same_tensors,
                                                                          capsys):
    assert tool(folder / name, folder / f'{name}.converted') == 0
    output = capsys.readouterr()
    assert '1,874 tensors' in output.out and 'not a published file' in output.out and output.err == ''
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(Config.fromfile(ROOT / 'configs/revbifpn/revbifpn-s0_8xb128_in1k.py').model)
    load_checkpoint(model, str(folder / f'{name}.converted'), map_location='cpu', strict=True)
    assert same_tensors(dict(model.state_dict()), converted)


def test_the_converted_file_states_its_origin(folder, plain):
    meta = torch.load(plain, weights_only=True)['meta']
    digest = hashlib.sha256((folder / 'plain.pth.tar').read_bytes()).hexdigest()
    assert meta['converted_from'] == 'plain.pth.tar' and meta['converted_from_sha256'] == digest


@pytest.mark.slow
@pytest.mark.parametrize('checkpoint', ['plain.pth', 'plain.pth.tar', 'timm.pth.tar'])
def test_a_detector_takes_the_backbone_of_a_classifier(plain, folder, checkpoint, converted, same_tensors):
    """Converted, or as it is published: mmengine then converts while it loads."""
    cfg = Config.fromfile(ROOT / 'configs/revbifpn/faster_rcnn_revbifpn_s0.py')
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(folder / checkpoint), prefix='backbone.')
    detector = MODELS.build(cfg.model)
    detector.init_weights()
    backbone = {key.removeprefix('backbone.'): value for key, value in converted.items()
                if key.startswith('backbone.')}
    assert same_tensors(dict(detector.backbone.state_dict()), backbone)


REFUSED = {
    'malicious.pth.tar': 'holds code, or objects that are not weights: posix.system',
    'pickled.pth.tar': 'cannot be read: truncated' if torch.__version__ >= (2, 6) else 'holds code',
    'foreign.pth.tar': 'is not a checkpoint of a RevBiFPN: no weight in it is named as published',
    'surplus.pth.tar': "is not a checkpoint of a RevBiFPN: 'surplus' is not a key",
    'tensor.pth.tar': 'is not a checkpoint of a RevBiFPN',
    'number.pth.tar': 'is a int, not a tensor',
    'ours.pth': 'has names of OpenMMLab already',
    'truncated.pth.tar': 'cannot be read: truncated, damaged or no checkpoint',
    'empty.pth.tar': '(0 bytes) cannot be read',
    'revbifpn_s0.pth.tar': 'has the name of the published weights of revbifpn-s0_3rdparty_in1k, but not their content',
    'missing.pth.tar': 'does not exist',
    '.': 'is a folder',
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_no_such_checkpoint_is_refused_in_two_lines(tool, folder, name, capsys):
    assert tool(folder / name, folder / 'refused.pth') == 2
    output = capsys.readouterr()
    problem, remedy = output.err.splitlines()
    assert problem.startswith('revbifpn_to_mmrev.py: error: ') and REFUSED[name] in problem and remedy.strip()
    assert output.out == '' and not list(folder.glob('refused.pth*'))


def start(folder, *arguments) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(TOOL), *arguments], cwd=folder, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


@pytest.mark.subprocess
def test_the_command_converts_and_refuses_and_never_runs_code(folder, converted, same_tensors):
    """In processes of their own: status, nothing but two lines on standard error, no traceback, no warning."""
    started = [start(folder, name, f'{name}.own') for name in ('timm.pth.tar', 'malicious.pth.tar', 'pickled.pth.tar')]
    good, *refused = [(process.communicate(timeout=300), process.returncode) for process in started]
    assert good[1] == 0 and good[0][1] == ''
    assert same_tensors(torch.load(folder / 'timm.pth.tar.own', weights_only=True)['state_dict'], converted)
    for (output, errors), status in refused:
        assert status == 2 and output == '' and len(errors.splitlines()) == 2, errors
    assert not (folder / 'malice_was_here').exists()


def test_a_file_of_ones_own_with_a_published_name_is_converted_on_demand(tool, folder, converted, same_tensors):
    assert tool(folder / 'revbifpn_s0.pth.tar', folder / 'own.pth', '--any-hash') == 0
    assert same_tensors(torch.load(folder / 'own.pth', weights_only=True)['state_dict'], converted)


def test_a_published_file_is_known_by_its_content(tool, folder, monkeypatch, capsys):
    """Whatever it is called; the data say which file that is."""
    digest = hashlib.sha256((folder / 'plain.pth.tar').read_bytes()).hexdigest()
    monkeypatch.setattr(published, 'models', lambda: (published.Model('known', 'c.py', (), 'http://x/known', digest), ))
    assert tool(folder / 'plain.pth.tar', folder / 'known.pth') == 0
    assert 'known, the published file' in capsys.readouterr().out


@pytest.mark.parametrize('target, message', [
    ('no/folder.pth', 'does not exist'), ('.', 'is a folder'), ('plain.pth.tar', 'is the file to convert')])
def test_a_destination_that_cannot_be_written_is_refused(tool, folder, target, message, capsys):
    assert tool(folder / 'plain.pth.tar', folder / target) == 2
    errors = capsys.readouterr().err
    assert message in errors and len(errors.splitlines()) == 2
