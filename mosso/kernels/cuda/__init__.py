"""Ops in CUDA C++, compiled at run time by NVRTC; only dispatch.py imports them, and only where they can run."""
