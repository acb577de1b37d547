"""The table of families: a checkpoint is recognized by the names of its weights alone."""
import pytest
import torch

from mmrev.checkpoints.conversion import convert
from mmrev.checkpoints.families import FAMILIES
from mmrev.checkpoints.family import Request
from mmrev.cli import convert as command
from mmrev.problems import ProblemError
from support.golden import GoldenRecord

RECORDS = {
    'revbifpn_s0': 'revbifpn', 'revbifpn_s1': 'revbifpn', 'iabn_resnet50': 'inplace_abn',
    'iabn_wider_resnet16': 'inplace_abn', 'iabn_densenet121': 'inplace_abn',
    'iabn_deeplab_wider_resnet16_a2': 'inplace_abn_deeplab', 'pf_resnet50_max': 'parameter_free',
    'pf_resnet50_hybrid': 'parameter_free', 'pf_vit_s_max': 'parameter_free', 'pf_pit_s_max': 'parameter_free',
    'mmpretrain_revvit_small': 'revvit', 'minrev_vit': 'minrev', 'minrev_swin': 'minrev', 'minrev_mvit': 'minrev'}


def weights(record):
    prefix = 'backbone.' if record.startswith('mmpretrain') else ''  # recorded of the backbone alone
    return {prefix + key: torch.empty(shape, device='meta') for key, shape in GoldenRecord(record).shapes.items()}


@pytest.mark.parametrize('record', RECORDS)
def test_each_published_network_is_of_one_family(record):
    content = weights(record)
    assert convert(content, Request('x.pth', any_hash=True))['meta']['family'] == RECORDS[record]
    for name, family in FAMILIES.items():
        if name != RECORDS[record]:
            with pytest.raises(ProblemError, match='is not a checkpoint of|has names of OpenMMLab'):
                convert(content, Request('x.pth', any_hash=True), [family])


def test_the_command_knows_every_family():
    assert sorted(command.FAMILIES) == sorted(FAMILIES)
    assert all(family.name == name for name, family in FAMILIES.items())


def test_the_command_converts_without_being_told_the_family(tmp_path, capsys):
    src, dst = tmp_path / 'src.pth', tmp_path / 'dst.pth'
    torch.save({key: torch.zeros(shape) for key, shape in GoldenRecord('minrev_vit').shapes.items()}, src)
    assert command.main([str(src), str(dst)]) == 0
    assert capsys.readouterr().out.startswith(f'{dst}: {len(GoldenRecord("minrev_vit").shapes)} tensors of {src}')
    assert torch.load(dst, weights_only=True)['meta']['family'] == 'minrev'


def test_options_of_another_family_are_refused(tmp_path, capsys):
    torch.save({key: torch.zeros(shape) for key, shape in GoldenRecord('minrev_vit').shapes.items()}, tmp_path / 'src')
    assert command.main([str(tmp_path / 'src'), str(tmp_path / 'dst'), '--for', 'batch_norm']) == 2
    assert 'whose norms cannot be changed' in capsys.readouterr().err and not (tmp_path / 'dst').exists()


def test_a_checkpoint_of_no_family_names_them_all(tmp_path, capsys):
    torch.save({'conv1.weight': torch.zeros(1)}, tmp_path / 'src')
    assert command.main([str(tmp_path / 'src'), str(tmp_path / 'dst')]) == 2
    errors = capsys.readouterr().err
    assert all(family.of in errors for family in FAMILIES.values())
