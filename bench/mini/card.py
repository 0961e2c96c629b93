"""The miniature's model card: what it is, how it was made, and the numbers that ``tvc-bench mini check`` measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["CHECK", "write_card"]

CHECK = "check.json"

_INTRO = """# The miniature

A complete text-to-image latent diffusion model of a drawn world, small enough to sample, edit and attack on two CPU
cores: 64x64 images of 12 objects in 8 colours, 3 characters, 5 backgrounds and 5 styles. It is to concept erasure what
MNIST is to classification. It is an ordinary diffusers folder:

```python
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained("bench/mini/model", use_safetensors=True)
```

Beside the pipeline's parts lie `clip/` (both towers), `judge/` (the classifier of record) and `concepts.json` (each
concept's names, neighbours and prompts). Files are checked against `SHA256SUMS` when the model is loaded.

**Made by** `tvc-bench mini train` (`bench/mini/train/`), on renders alone: no picture, text or weight of anybody else.
Combinations of attributes used in prompts of the benchmark are held out of training (`bench/mini/scenes.py`).

**Limits.** It knows the words of its world and nothing else. It says how methods and attacks compare
where ground truth is known exactly; not that a method that works here works on Stable Diffusion.

**Licence.** MIT, as the rest of the repository.
"""


def write_card(folder: Path, found: Mapping[str, Any], notes: str = "") -> None:
    """Writes ``README.md`` and ``check.json`` into the model's folder.

    Args:
        folder: Of the miniature.
        found: From :func:`bench.mini.check.check_model`.
        notes: Markdown on how these weights came about.
    """
    lines = ["| measure | value | bar | n | met |", "|---|---:|---:|---:|---|"]
    for row in found["bars"]:
        share = not row["name"].endswith((", s", ", MB"))
        value, bar = (
            f"{100 * row[k]:.2f} %" if share else f"{row[k]:.3g}" for k in ("value", "bar")
        )
        sign = "≤" if row["at_most"] else "≥"
        lines.append(
            f"| {row['name']} | {value} | {sign} {bar} | {row['n']} | {'yes' if row['met'] else '**no**'} |"
        )
    sampler = ", ".join(f"{k} {v}" for k, v in found["sampler"].items() if v is not None)
    head = f"\n## Measured\n\nBy `tvc-bench mini check` on {found['threads']} threads; sampler: {sampler}.\n\n"
    body = _INTRO + head + "\n".join(lines) + "\n"
    (folder / "README.md").write_text(
        body + (f"\n## How these weights came about\n\n{notes.strip()}\n" if notes else "")
    )
    # Where it lay on the machine that measured it says nothing.
    kept = {key: value for key, value in found.items() if key != "folder"}
    (folder / CHECK).write_text(json.dumps(kept, indent=1) + "\n")
