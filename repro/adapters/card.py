"""What a saved adapter's model card says about loading it.

peft's `save_pretrained` writes the card, README.md, and then lets the configuration save itself into the same
folder: so a configuration can complete the card, and nothing of peft is patched.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from peft import PeftConfig

_HEADING = "## How to load this adapter"

# peft's AutoPeftModel refuses a configuration with a task, which has a class of its own.
_AUTO_CLASSES = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "TOKEN_CLS": "AutoPeftModelForTokenClassification",
    "QUESTION_ANS": "AutoPeftModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoPeftModelForFeatureExtraction",
}


class CardConfig(PeftConfig):
    """A configuration of a tuner that peft lacks: the card names it in a tag, and how it is registered."""

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Save adapter_config.json, and complete the model card that peft has just written, if any."""
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        # peft saves an adapter that is not called "default" into a folder of its name, below the card's.
        for path in (folder / "README.md", folder.parent / "README.md"):
            if path.is_file():
                self._complete(path, folder)
                return

    def _complete(self, path: Path, folder: Path) -> None:
        card = ModelCard.load(path)
        if card.data.library_name != "peft":  # of something else, next to which this adapter is saved
            return
        card.data.tags = sorted({*(card.data.tags or []), _tag(self)})
        if _HEADING not in card.text:
            card.text = f"{card.text.rstrip()}\n\n{self._loading(folder)}"
        card.save(path)

    def _loading(self, folder: Path) -> str:
        package = type(self).__module__.rpartition(".")[0]
        if package.startswith(
            "dual_lora."
        ):  # of the distribution of that name, whose top package registers it
            package = "dual_lora"
        auto_class = _AUTO_CLASSES.get(str(self.task_type or ""), "AutoPeftModel")
        return f"""{_HEADING}

{_tag(self)} is no method of peft's own. The first import registers it.

```python
import {package}
from peft import {auto_class}
model = {auto_class}.from_pretrained({json.dumps(folder.name)})  # this folder, or this repository's name
```
"""


def _tag(config: PeftConfig) -> str:
    """The tuner's name as a tag, for instance dual-lora."""
    name: Any = config.peft_type
    return str(getattr(name, "value", name)).lower().replace("_", "-")
