"""Set before torch is imported, and inherited by every process that a test starts."""
import os

# The tests' operators are small: a second thread waits, spinning, for longer than it computes, and on a machine that
# does something else as well that made single tests ten times slower.
os.environ.setdefault('OMP_NUM_THREADS', '1')
