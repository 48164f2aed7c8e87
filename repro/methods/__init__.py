"""One file per row label of the paper; `base.Method` is the interface, `registry` lists all methods."""

from repro.methods.base import AttachReport, Method, MethodError, OptimizerSettings
from repro.methods.peft_method import PeftMethod
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
