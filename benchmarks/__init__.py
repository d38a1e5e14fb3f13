"""Measurements that anyone can repeat: `python -m benchmarks.NAME --help`."""

import os

# The profiler, which counts memory, writes its inner workings to stderr otherwise.
os.environ.setdefault("KINETO_LOG_LEVEL", "5")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
