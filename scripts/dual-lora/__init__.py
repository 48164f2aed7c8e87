"""Dual LoRA (arXiv 2512.03402) as a method of peft: importing this package registers it.

Where the harness `repro` has registered its copy of this code in the process, the names here are that copy's.
"""

import sys

import peft  # noqa: F401  first: `repro register` has the harness registered when peft is imported

if "repro.adapters.dual_lora" in sys.modules:
    from repro.adapters.dual_lora import *  # noqa: F403
    from repro.adapters.dual_lora import __all__
else:
    from .adapters.dual_lora import *  # noqa: F403
    from .adapters.dual_lora import __all__  # noqa: F401
