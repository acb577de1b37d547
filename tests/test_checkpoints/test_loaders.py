"""Published checkpoints as mmengine loads them: by file, by address and by name, from a local server."""
import argparse
import functools
import hashlib
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader, load_from_http, load_from_local

from mmrev import checkpoints
from mmrev.checkpoints import published
from mmrev.problems import ProblemError

NAME = 'revbifpn_s0.pth.tar'


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder and notes what is asked for."""

    def __init__(self, folder):
        self.asked = []
        handler = functools.partial(_Handler, directory=str(folder))
        super().__init__(('127.0.0.1', 0), handler)
        self.address = f'http://127.0.0.1:{self.server_port}'


class _Handler(http.server.SimpleHTTPRequestHandler):

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror(tmp_path):
    """A server with a folder ``public``."""
    (tmp_path / 'public').mkdir()
    server = Server(tmp_path / 'public')
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def file(tmp_path, mirror, weights, monkeypatch):
    """The file on the server, which the metafile is made to name; torch keeps downloads in an empty folder."""
    path = tmp_path / 'public' / NAME
    torch.save(weights, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(published, 'models', lambda: (
        published.Model('revbifpn-s0', 'configs/a.py', (), f'{mirror.address}/{NAME}', digest),
        published.Model('detector', 'configs/revbifpn/detector.py', (), None, None)))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'kept'))
    return path


@pytest.mark.parametrize('path, loader', [
    ('revbifpn_s3.pth.tar', checkpoints.load_from_published_file),
    ('~/weights/model_best.pth.tar', checkpoints.load_from_published_file),
    ('runs/my_revbifpn.pth', checkpoints.load_from_published_file),
    ('https://host/some/revbifpn_s3.pth.tar', checkpoints.load_from_published_url),
    ('http://host/revbifpn_s3.pth.tar', checkpoints.load_from_published_url),
    ('mmrev://revbifpn-s3_3rdparty_in1k', checkpoints.load_from_mmrev),
    ('work_dirs/faster_rcnn_revbifpn_s3/epoch_12.pth', load_from_local),
    ('model.pth', load_from_local),
    ('https://host/resnet.pth', load_from_http),
    ('https://host/resnet.pth.tar.gz', load_from_http),
])
def test_a_loader_is_chosen_by_the_form_of_the_path(path, loader):
    assert CheckpointLoader._get_checkpoint_loader(path) is loader
    assert checkpoints.has_published_form(path) == (loader is checkpoints.load_from_published_file)


def test_other_backends_keep_their_paths():
    for path in ('s3://bucket/a.pth.tar', 'open-mmlab://revbifpn', 'torchvision://x.pth.tar'):
        assert CheckpointLoader._get_checkpoint_loader(path).__module__ == 'mmengine.runner.checkpoint'


def test_a_published_file_is_converted_while_it_is_loaded(file, converted, same_tensors):
    assert same_tensors(CheckpointLoader.load_checkpoint(str(file))['state_dict'], converted)


def test_retrained_weights_are_converted_whatever_trainer_wrote_them(tmp_path, weights, converted, same_tensors):
    path = tmp_path / 'model_best.pth.tar'
    torch.save(dict(state_dict={f'module.{key}': value for key, value in weights.items()},
                    args=argparse.Namespace(lr=0.1)), path)
    assert same_tensors(CheckpointLoader.load_checkpoint(str(path))['state_dict'], converted)


def test_reading_leaves_torch_as_strict_and_as_knowing_as_before(tmp_path, weights):
    checkpoints.allow_mmengine_checkpoints()
    before = set(torch.serialization.get_safe_globals())
    torch.save(dict(weights, args=argparse.Namespace(lr=0.1)), tmp_path / 'a.pth.tar')
    checkpoints.read(str(tmp_path / 'a.pth.tar'))
    assert set(torch.serialization.get_safe_globals()) == before and argparse.Namespace not in before


def test_files_of_others_are_loaded_as_mmengine_would(tmp_path):
    """By their content if it is a file of tensors; else by mmengine itself, with its errors."""
    foreign = dict(state_dict={'conv1.weight': torch.ones(3)}, epoch=3)
    torch.save(foreign, tmp_path / 'moco.pth.tar')
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / 'moco.pth.tar'))
    assert loaded.keys() == foreign.keys() and torch.equal(loaded['state_dict']['conv1.weight'], torch.ones(3))
    with pytest.raises(FileNotFoundError, match='can not be found'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'missing.pth.tar'))
    (tmp_path / 'damaged.pth.tar').write_bytes(b'PK damaged')
    with pytest.raises(Exception) as ours:
        CheckpointLoader.load_checkpoint(str(tmp_path / 'damaged.pth.tar'))
    with pytest.raises(Exception) as theirs:
        load_from_local(str(tmp_path / 'damaged.pth.tar'), 'cpu')
    assert ours.type is theirs.type


def test_a_file_with_a_published_name_and_another_content_is_refused(file, weights):
    torch.save(dict(weights, surplus=torch.zeros(1)), file)
    with pytest.raises(ProblemError, match='(?s)not their content: its sha256 is [0-9a-f]{64}.*--any-hash'):
        CheckpointLoader.load_checkpoint(str(file))


@pytest.mark.parametrize('address', ['{server}/' + NAME, 'mmrev://revbifpn-s0', 'mmrev://RevBiFPN-S0'])
def test_an_address_is_downloaded_once_and_converted(file, mirror, address, converted, same_tensors):
    for _ in range(2):
        loaded = CheckpointLoader.load_checkpoint(address.format(server=mirror.address))
        assert same_tensors(loaded['state_dict'], converted)
    assert mirror.asked == [f'/{NAME}']


def test_a_download_that_is_not_the_published_file_is_refused_and_not_kept(file, mirror, tmp_path):
    file.write_text('<html>Please log in</html>')
    with pytest.raises(ProblemError, match='are not the published weights of revbifpn-s0'):
        CheckpointLoader.load_checkpoint(f'{mirror.address}/{NAME}')
    assert not [path for path in (tmp_path / 'kept').rglob('*') if path.is_file()]


def test_a_kept_download_that_was_damaged_is_refused(file, mirror, tmp_path):
    CheckpointLoader.load_checkpoint('mmrev://revbifpn-s0')
    kept = next((tmp_path / 'kept').rglob(NAME))
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(ProblemError, match='not their content'):
        CheckpointLoader.load_checkpoint('mmrev://revbifpn-s0')


@pytest.mark.parametrize('cause', ['not found', 'no server'])
def test_without_a_network_it_says_what_to_do(file, mirror, cause):
    file.unlink()
    if cause == 'no server':
        mirror.shutdown()
        mirror.server_close()
    with pytest.raises(ProblemError, match='(?s)cannot be downloaded.*give the path of the file'):
        CheckpointLoader.load_checkpoint(f'{mirror.address}/{NAME}')


def test_weights_that_nobody_published_are_refused(file):
    with pytest.raises(ProblemError, match='(?s)no weights are published for `detector`.*'
                       'mmrev train mmrev::revbifpn/detector.py'):
        CheckpointLoader.load_checkpoint('mmrev://detector')
    with pytest.raises(ProblemError, match='(?s)has no model `other`.*published for revbifpn-s0'):
        CheckpointLoader.load_checkpoint('mmrev://other')


SEVERAL = '''
import sys
import torch
from mmengine.runner.checkpoint import CheckpointLoader
import mmrev
from mmrev.checkpoints import published
from mmrev.problems import ProblemError
rank, init, good, bad, digest = sys.argv[1:]
published.models = lambda: tuple(published.Model(url, 'c.py', (), url, digest) for url in (good, bad))
torch.distributed.init_process_group('gloo', init_method=init, rank=int(rank), world_size=2)
print(len(CheckpointLoader.load_checkpoint(good)['state_dict']))
try:
    CheckpointLoader.load_checkpoint(bad)
except ProblemError as error:
    print('refused')
'''


@pytest.mark.subprocess
def test_of_several_processes_one_downloads_and_a_failure_stops_none(file, mirror, tmp_path):
    good, digest = f'{mirror.address}/{NAME}', hashlib.sha256(file.read_bytes()).hexdigest()
    started = [subprocess.Popen([sys.executable, '-W', 'ignore', '-c', SEVERAL, str(rank), f'file://{tmp_path}/meet',
                                 good, f'{mirror.address}/revbifpn_s9.pth.tar', digest], text=True,
                                cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
               for rank in range(2)]
    outputs = [process.communicate(timeout=300) for process in started]
    for output, errors in outputs:
        assert output.splitlines()[-1] == 'refused' and '1874' in output, errors
    assert mirror.asked.count(f'/{NAME}') == 1
