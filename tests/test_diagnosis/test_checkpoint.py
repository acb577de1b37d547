"""What is wrong with the checkpoint that a run starts from: two lines, status 2, nothing written."""
import argparse
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmrev.checkpoints import allow_mmengine_checkpoints, load_local
from mmrev.checkpoints.families.revbifpn import convert_state_dict
from mmrev.cli import main
from mmrev.diagnosis.checkpoint import pretrained, unfit
from mmrev.diagnosis.plan import Plan
from mmrev.problems import ProblemError
from mmrev.registry import MODELS
from support.commands import option, said
from support.golden import GoldenRecord

MISTAKES = {
    'weights to start from that are not there': (
        ['train', 'good.py', '--cfg-options', 'model.backbone.init_cfg.type=Pretrained',
         'model.backbone.init_cfg.checkpoint=othr.pth'], 'model.backbone.init_cfg.checkpoint', '`other.pth`'),
    'weights to start from of another model': (
        option('model.backbone.init_cfg.checkpoint=other.pth'), '`other.pth` holds no weight of this RevBiFPN: its '
        'names are other (model.backbone.init_cfg.checkpoint)', 'Give a checkpoint of RevBiFPN'),
    "mmengine's initializer with weights of another model": (
        ['train', 'good.py', '--cfg-options', 'model.init_cfg.type=Pretrained', 'model.init_cfg.checkpoint=other.pth'],
        '`other.pth` holds no weight of this FasterRCNN: its names are other (model.init_cfg.checkpoint)', 'Give a'),
    'a file in place of an initializer': (
        option('model.backbone.init_cfg=other.pth'), "`model.backbone.init_cfg` is 'other.pth', not a dict",
        '--cfg-options model.backbone.init_cfg.checkpoint=other.pth'),
    'weights to start from without a tensor': (option('model.backbone.init_cfg.checkpoint=numbers.pth'),
                                               '`numbers.pth` holds no weights', 'Give a checkpoint of RevBiFPN'),
    'a checkpoint that is not there': (['test', 'good.py', 'othre.pth'], '`othre.pth` does not exist', '`other.pth`'),
    'a checkpoint that is text': (['test', 'good.py', 'no_checkpoint.pth'], 'no_checkpoint.pth', 'another'),
    'a checkpoint cut off': (['test', 'good.py', 'cut.pth'], 'cut.pth', 'Copy it again'),
    'a checkpoint with a flipped bit': (['test', 'good.py', 'flipped.pth'], 'flipped.pth', 'Copy it again'),
    'a checkpoint with foreign objects': (['test', 'good.py', 'foreign.pth'], 'argparse.Namespace', 'add_safe_globals'),
    'a checkpoint of another model': (['test', 'good.py', 'other.pth'], 'no weight of', 'config'),
    'resuming from nothing': (['train', 'good.py', '--resume', '7.bin'], '`7.bin` does not exist', 'Checkpoints'),
    'resuming from weights': (['train', 'good.py', '--resume', 'other.pth'], '`optimizer`', 'load_from=other.pth'),
    'resuming from another model': (['train', 'good.py', '--resume', 'otherwise.pth'], 'another model: `backbone.',
                                    'load_from=otherwise.pth'),
    'starting from another model': (option('load_from=other.pth'), 'no weight of', 'config'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_it_is_named_with_a_way_out_and_nothing_is_written(mistake, refused):
    refused(*MISTAKES[mistake])


def test_the_argument_pretrained_of_a_classifier_is_checked_as_well(folder):
    model = dict(type='mmpretrain.ImageClassifier', pretrained=str(folder / 'other.pth'), backbone=dict(
        type='mmpretrain.LeNet5', num_classes=-1))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        plan = Plan(Config(dict(model=model)), ('train', ), MODELS.build(model))
    problem, = pretrained(plan)
    assert 'holds no weight of this ImageClassifier' in problem.what


def test_a_damaged_checkpoint_alone_cannot_be_resumed(folder, tmp_path, monkeypatch, capfd):
    run = tmp_path / 'run'
    run.mkdir()
    (run / 'epoch_3.pth').write_bytes((folder / 'cut.pth').read_bytes())
    (run / 'last_checkpoint').write_text(str(run / 'epoch_3.pth'))
    monkeypatch.chdir(folder)
    assert main(['train', 'good.py', '--work-dir', str(run), '--resume']) == 2
    what, fix = said(capfd.readouterr().err)
    assert 'epoch_3.pth cannot be read' in what and '--overwrite' in fix


def test_a_checkpoint_cannot_reach_other_functions_by_the_name_of_getattr(tmp_path):
    allow_mmengine_checkpoints()
    torch.save(GetSystem(), tmp_path / 'evil.pth')
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'evil.pth')


class GetSystem:
    """Pickles to ``getattr(dict, 'fromkeys')``, a stand-in for something harmful."""

    def __reduce__(self):
        return getattr, (dict, 'fromkeys')


@pytest.fixture(scope='module')
def published():
    """The weights of a RevBiFPN-S0 under the published names, and under ours."""
    weights = {key: value.float() if value.is_floating_point() else value
               for key, value in GoldenRecord('revbifpn_s0').state_dict().items()}
    return weights, convert_state_dict(weights)


@pytest.mark.parametrize('content', [
    lambda weights: weights,
    lambda weights: dict(state_dict=weights, epoch=3, args=argparse.Namespace(lr=0.1)),
])
def test_a_published_checkpoint_is_taken_as_it_was_trained(content, published, tmp_path):
    weights, converted = published
    file = tmp_path / 'model_best.pth.tar'
    torch.save(content(weights), file)
    checkpoint = load_local(str(file))
    assert checkpoint['state_dict'].keys() == converted.keys()
    assert all(torch.equal(value, converted[key]) for key, value in checkpoint['state_dict'].items())
    cfg = Config.fromfile(Path(__file__).parents[2] / 'configs/revbifpn/revbifpn-s0_8xb128_in1k.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        plan = Plan(cfg, ('test', ), MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)))
    assert list(unfit(plan, checkpoint, str(file))) == []


def test_a_published_checkpoint_that_is_another_or_cut_off_is_named(published, tmp_path):
    weights = published[0]
    file = tmp_path / 'revbifpn_s0.pth.tar'
    torch.save(weights, file)
    with pytest.raises(ProblemError, match='not their content') as error:
        load_local(str(file))
    assert '--any-hash' in error.value.fix
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ProblemError, match='truncated'):
        load_local(str(file))
