"""The miniature's judge: one small convolutional trunk, a softmax head for each attribute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.core.errors import UsageError, in_one_line
from bench.core.files import regular
from bench.core.json_files import read_object
from bench.core.kept import kept_while_same

__all__ = ["JudgeNet", "Trunk", "judge_on", "load_judge", "save_judge"]

_WIDTHS = (32, 64, 96, 128)
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


class Trunk(nn.Module):
    """Convolutions that turn 64x64 pictures into ``Trunk.width`` features."""

    width = 192 + _WIDTHS[-1]

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = _WIDTHS
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(3, a, 5, stride=2, padding=2),
                nn.Conv2d(a, b, 3, stride=2, padding=1),
                nn.Conv2d(b, c, 3, padding=1),
                nn.Conv2d(c, d, 3, stride=2, padding=1),
                nn.Conv2d(d, d, 3, padding=1),
            ]
        )
        self.norms = nn.ModuleList([nn.GroupNorm(8, w) for w in (a, b, c, d, d)])
        self.pool = nn.Linear(d * 16, 192)

    def features(self, images: Tensor) -> Tensor:
        """[N, width] of images [N, 3, 64, 64] in [0, 1]."""
        x = images * 2 - 1
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        return torch.cat([F.relu(self.pool(F.avg_pool2d(x, 2).flatten(1))), x.mean((2, 3))], dim=1)


class JudgeNet(Trunk):
    """Classifies 64x64 pictures of the world.

    Args:
        heads: head -> class names; each head gets one more class at the end, "none of these".
    """

    def __init__(self, heads: dict[str, tuple[str, ...]]) -> None:
        super().__init__()
        self.classes = heads
        self.heads = nn.ModuleDict(
            {h: nn.Linear(self.width, len(names) + 1) for h, names in heads.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits [N, classes + 1] per head.

        Args:
            images: [N, 3, 64, 64] in [0, 1].
        """
        features = self.features(images)
        return {h: head(features) for h, head in self.heads.items()}


def save_judge(net: JudgeNet, folder: Path) -> None:
    """Writes ``config.json`` and ``model.safetensors`` (fp16)."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {n: w.half().contiguous() for n, w in net.state_dict().items()},
        folder / _WEIGHTS,
    )
    (folder / _CONFIG).write_text(json.dumps({"heads": net.classes}, indent=1) + "\n")


def load_judge(folder: Path) -> JudgeNet:
    """Reads a judge folder.

    Raises:
        UsageError: the folder holds no judge, or what is no regular file.
    """
    config: dict[str, Any] = read_object(folder / _CONFIG)
    path = regular(folder / _WEIGHTS)
    try:
        net = JudgeNet({h: tuple(names) for h, names in config["heads"].items()})
        net.load_state_dict({n: w.float() for n, w in load_file(path).items()})
    except (SafetensorError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(
            f"{path}: expected the weights of a judge with the heads of {_CONFIG}, got {in_one_line(error)}"
        ) from error
    return net.eval()


@kept_while_same(lambda folder, device: (folder / _CONFIG, folder / _WEIGHTS), most=4)
def judge_on(folder: Path, device: str) -> JudgeNet:
    """The judge of a folder on a device, frozen and ready to score; read once for each.

    Raises:
        UsageError: as :func:`load_judge`.
    """
    with torch.random.fork_rng(devices=[]):  # a network is made with random weights, then filled
        return load_judge(folder).to(device).requires_grad_(False)
