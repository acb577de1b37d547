"""The models of this package's metafiles: the addresses and hashes of their published weights."""
import functools
import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple, Optional, Tuple

from mmrev.problems import ProblemError

INDEX = Path(__file__).parents[1] / '.mim' / 'model-index.yml'


class Model(NamedTuple):
    """One model of the metafiles.

    ``url`` and ``sha256`` are None if no weights are published, or if only a browser can download them: a file with
    this ``md5`` from ``page``. ``sha256`` may be only the first digits, if no more are published.
    """

    name: str
    config: str  # path below the folder of the index
    tasks: Tuple[str, ...]
    url: Optional[str]
    sha256: Optional[str]
    page: Optional[str] = None
    md5: Optional[str] = None

    @property
    def config_file(self) -> str:
        return str(INDEX.parent / self.config)

    @property
    def weights(self) -> str:
        """Path for mmengine to load the weights from. If none are published, loading it raises an error."""
        return self.url if self.url and self.url.endswith('.pth.tar') else f'mmrev://{self.name}'


@functools.lru_cache(maxsize=None)
def models() -> Tuple[Model, ...]:
    """All models of this package's index."""
    import yaml
    loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
    entries = []
    for metafile in yaml.load(INDEX.read_text(encoding='utf-8'), loader)['Import']:
        entries += yaml.load((INDEX.parent / metafile).read_text(encoding='utf-8'), loader)['Models']
    return tuple(Model(entry['Name'], entry['Config'], tuple(result['Task'] for result in entry.get('Results') or ()),
                       entry.get('Weights'), entry.get('Weights SHA256'), entry.get('Published Weights'),
                       entry.get('Weights MD5')) for entry in entries)


def find_model(name: str) -> Optional[Model]:
    """Find a model by its name, ignoring case."""
    return next((model for model in models() if model.name.lower() == name.lower()), None)


def find_file(path: str) -> Optional[Model]:
    """Find the model whose published weights have this file name, in any folder or at any address."""
    name = os.path.basename(path)
    return next((model for model in models() if model.url and os.path.basename(model.url) == name), None)


def find_digest(*digests: str) -> Optional[Model]:
    """Find the model whose published file has one of these hashes, SHA-256 or MD5."""
    return next((model for model in models() if model.sha256 in digests or model.md5 in digests), None)


def sha256_of(file: str) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return _digest(file, hashlib.sha256())


def md5_of(file: str) -> str:
    """The MD5 of a file, in hexadecimal."""
    return _digest(file, hashlib.md5(usedforsecurity=False))


def _digest(file: str, digest: Any) -> str:
    with open(file, 'rb') as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_hash(file: str, model: Model, digest: Optional[str] = None) -> None:
    """Check that a file is the published one.

    Args:
        file: Its path.
        model: The model whose weights it should hold.
        digest: Its SHA-256, if already known.

    Raises:
        ProblemError: If it is another file, or damaged.
    """
    digest = digest or sha256_of(file)
    if not digest.startswith(model.sha256):
        raise ProblemError(
            f'`{file}` has the name of the published weights of {model.name}, but not their content: its sha256 is '
            f'{digest}, theirs is {model.sha256}', f'Download {model.url} again; give your own weights another '
            'file name, or convert them: mmrev convert SRC DST --any-hash')
