from .operators import TABLE
from .recorder import Recorder
