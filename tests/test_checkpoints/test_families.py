"""The table of families: a checkpoint is recognized by the names of its weights alone."""
import re
import textwrap
from pathlib import Path

import pytest
import torch

from mmrev.checkpoints.conversion import convert
from mmrev.checkpoints.families import FAMILIES
from mmrev.checkpoints.family import Request
from mmrev.cli import convert as command
from mmrev.problems import ProblemError
from support import golden
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


@pytest.mark.parametrize('record', [record for record in RECORDS if record != 'revbifpn_s1'])  # as revbifpn_s0
def test_a_network_without_one_of_its_modules_is_refused_by_the_name_of_a_weight(record):
    """Any module of the backbone or decode head: a norm, attention, half a block, a block between others, a stage.

    A block at the end of a stage, or the last stage of a RevBiFPN, may be left out: that is a network of another depth.
    """
    family = FAMILIES[RECORDS[record]]
    converted = family.convert(weights(record))
    family.check_complete(converted)
    paths = sorted({'.'.join(key.split('.')[:end]) for key in converted for end in range(2, key.count('.') + 1)
                    if key.startswith(('backbone.', 'decode_head.'))})
    accepted = []
    for path in paths[::1 + len(paths) // 400]:  # of large networks, some
        try:
            family.check_complete({key: value for key, value in converted.items() if not key.startswith(f'{path}.')})
            accepted.append(path)
        except KeyError as error:
            assert re.search(r'`(backbone|decode_head)\.\S+` (is missing|lacks a conv)|numbers of blocks', str(error))
    assert [path for path in accepted if not is_last_block(path, converted)] == []


def is_last_block(path, keys):
    """Whether `path` is the last block of a stage, or all that it has."""
    block = re.fullmatch(r'(.+\.)(\d+)(\.f)?', path)
    return block is not None and not any(key.startswith(f'{block.group(1)}{int(block.group(2)) + 1}.') for key in keys)


def test_the_command_refuses_a_published_revvit_without_the_attention_of_a_block(tmp_path, capsys):
    content = {key: torch.zeros(shape) for key, shape in GoldenRecord('mmpretrain_revvit_small').shapes.items()}
    torch.save({f'backbone.{key}': value for key, value in content.items() if not key.startswith('layers.5.attn')},
               tmp_path / 'src')
    assert command.main([str(tmp_path / 'src'), str(tmp_path / 'dst')]) == 2
    assert '`backbone.layers.couplings.5.f.layer.proj.bias` is missing, and 3 more' in capsys.readouterr().err
    assert not (tmp_path / 'dst').exists()


def test_the_record_that_contributing_writes_has_names_and_shapes(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    code, = re.findall(r'   ```python\n(.*?)   ```', page, re.DOTALL)
    (tmp_path / 'tests/data/golden').mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(golden, 'FOLDER', tmp_path / 'tests/data/golden')
    exec(textwrap.dedent(code), dict(name='new', state_dict={'conv.weight': torch.zeros(2, 3, 1, 1)}))
    assert GoldenRecord('new').shapes == {'conv.weight': (2, 3, 1, 1)}
    assert GoldenRecord('new').state_dict()['conv.weight'].shape == (2, 3, 1, 1)


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
