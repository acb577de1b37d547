"""Set before torch is imported, and inherited by every process that a test starts."""
import os

# The tests' operators are small: a second thread waits, spinning, for longer than it computes, and on a machine that
# does something else as well that made single tests ten times slower.
os.environ.setdefault('OMP_NUM_THREADS', '1')

from functools import lru_cache  # noqa: E402

import pytest  # noqa: E402


@pytest.fixture(scope='session', autouse=True)
def find_a_config_of_a_host_once():
    """mmengine reads every metafile of mmdet or mmpretrain for each file that a config inherits from there."""
    try:
        from mmengine.config import Config
    except ImportError:
        yield
        return
    find = Config._get_cfg_path
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, '_get_cfg_path', staticmethod(lru_cache(maxsize=None)(find)))
        yield
