"""Models by name: architecture, checkpoint, padding, and the modules to adapt."""

from repro.models.shapes import LinearShape, base_parameters, linear_shapes, surroundings
from repro.models.spec import ModelSpec, Padding, list_models, load_model_spec

__all__ = [
    "LinearShape",
    "ModelSpec",
    "Padding",
    "base_parameters",
    "linear_shapes",
    "list_models",
    "load_model_spec",
    "surroundings",
]
