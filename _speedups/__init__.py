"""Compiled kernels, installed as ``relay._speedups``; chosen by ``relay._kernels``."""
