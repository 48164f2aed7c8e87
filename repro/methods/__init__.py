"""One file per row label of the paper; `base.Method` says what a method is, `registry` knows them all."""

from repro.methods.base import AttachReport, Method, MethodError, OptimizerSettings, PeftMethod
from repro.methods.registry import METHODS, parse_method

__all__ = [
    "METHODS",
    "AttachReport",
    "Method",
    "MethodError",
    "OptimizerSettings",
    "PeftMethod",
    "parse_method",
]
