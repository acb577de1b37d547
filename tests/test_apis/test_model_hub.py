"""Our classifiers by name in mmpretrain."""
import functools
import http.server
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpretrain import get_model, inference_model, list_models
from mmpretrain.apis import ModelHub

import mmrev.apis  # noqa: F401
from mmrev.apis import model_hub
from mmrev.checkpoints import published
from mmrev.checkpoints.families.revbifpn import convert_state_dict
from support.golden import GoldenRecord
from support.wheels import in_elsewhere

ROOT = Path(__file__).parents[2]
NAMES = [f'revbifpn-s{i}_3rdparty_in1k' for i in range(7)]
LIST = 'from mmpretrain import get_model, list_models; print(list_models("*revbifpn*"))'


def run(code: str, cwd) -> str:
    return in_elsewhere(sys.executable, code, cwd)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An address that serves weights of S0, which the metafile is made to know; torch's downloads are elsewhere."""
    weights = {key: value.float() if value.is_floating_point() else value
               for key, value in GoldenRecord('revbifpn_s0').state_dict().items()}
    (tmp_path / 'public').mkdir()
    file = tmp_path / 'public' / 'revbifpn_s0.pth.tar'
    torch.save(weights, file)
    known = tuple(model._replace(sha256=published.sha256_of(file)) for model in published.models())
    monkeypatch.setattr(published, 'models', lambda: known)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'kept'))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / 'public'))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/', convert_state_dict(weights)
    server.shutdown()
    server.server_close()


def test_mmpretrain_lists_the_classifiers_and_no_detector():
    assert list_models('*revbifpn*') == list_models('*revbifpn*', task='Image Classification') == NAMES


def test_a_name_gives_the_model_of_its_config():
    model = get_model('revbifpn-s1_3rdparty_in1k')
    assert sum(p.numel() for p in model.parameters()) == 5112300 and len(model._dataset_meta['classes']) == 1000
    assert model._metainfo.results[0].metrics['Top 1 Accuracy'] == 75.9
    assert model._metainfo.full_model.paper['URL'] == 'https://arxiv.org/abs/2206.14098'


def test_pretrained_weights_are_downloaded_checked_and_converted(server):
    address, converted = server
    model = get_model('revbifpn-s0_3rdparty_in1k', pretrained=True, url_mapping=('https://.*/', address))
    state = model.state_dict()
    assert state.keys() == converted.keys() and all(torch.equal(state[key], converted[key]) for key in state)
    result = inference_model(model, np.zeros((80, 100, 3), np.uint8))
    assert 0 <= result['pred_label'] < 1000 and result['pred_class']


def test_a_model_without_published_weights_is_refused_as_pretrained(monkeypatch):
    """mmpretrain itself warns, and goes on with random weights."""
    known = tuple(model._replace(url=None, sha256=None) for model in published.models())
    monkeypatch.setattr(published, 'models', lambda: known)
    monkeypatch.setattr(ModelHub, '_models_dict', dict(ModelHub._models_dict))
    model_hub.add_classifiers()
    with pytest.raises(ValueError, match='(?s)no weights are published for `revbifpn-s0_3rdparty_in1k`.*mmrev train'):
        get_model('revbifpn-s0_3rdparty_in1k', pretrained=True)
    assert get_model('revbifpn-s0_3rdparty_in1k')._metainfo.name == 'revbifpn-s0_3rdparty_in1k'


@pytest.mark.subprocess
@pytest.mark.parametrize('code', [f'import mmrev.apis\n{LIST}', f'import mmpretrain\nimport mmrev.apis\n{LIST}'])
def test_it_does_not_matter_which_is_imported_first(code, tmp_path):
    assert run(code, tmp_path) == str(NAMES)


@pytest.mark.subprocess
def test_importing_the_apis_imports_no_host(tmp_path):
    code = 'import sys, mmrev.apis; print([m for m in ("torch", "mmcv", "mmdet", "mmpretrain") if m in sys.modules])'
    assert run(code, tmp_path) == '[]'


@pytest.mark.subprocess
@pytest.mark.parametrize('absent', ['mmpretrain', 'mmdet'])
def test_the_apis_import_where_a_host_is_absent(absent, tmp_path):
    code = (f'import sys\nsys.modules[{absent!r}] = None\nimport mmrev.apis\nimport mmengine.runner\n'
            'try:\n    from mmrev.apis import DetInferencer\n'
            'except ImportError as error:\n    print("without", error.name)')
    # OneDL's mmdet prints a warning of its own where mmpretrain is absent.
    assert ('without mmdet' in run(code, tmp_path)) == (absent == 'mmdet')


@pytest.mark.subprocess
def test_an_installed_wheel_brings_index_and_metafile(installed, tmp_path):  # noqa: F811
    code = f'import mmrev.apis\n{LIST}\nfrom mmrev.checkpoints import published\nprint(published.INDEX)'
    names, index = in_elsewhere(installed, code, tmp_path).splitlines()
    assert names == str(NAMES) and installed.parents[1] in Path(index).parents
