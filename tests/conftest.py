"""One thread for each of the processes that share the tests, set before torch is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
