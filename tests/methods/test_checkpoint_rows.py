"""A method's edit that was saved, or saved as a pickle and converted, gives the rows of the method itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.api import erase
from bench.config.suite import load_suite
from bench.model.text_to_image import TextToImage
from bench.run.collect import collect
from bench.run.plan import make_plan
from bench.run.runner import Watcher, run_plan
from bench.run.store import Store
from methods.released.convert.convert import convert
from tests.tiny import SUITE

UCE = {"uce": {"preset": "repo-2023"}}
OF_METHOD = {"method", "source"}


@pytest.mark.slow
def test_a_saved_edit_is_evaluated_as_the_method_is(model: TextToImage, tmp_path: Path) -> None:
    edited = erase(model, "star", UCE)
    edited.to_diffusers().save_pretrained(tmp_path / "saved")
    unet = {
        n: w for n, w in {**model.backbone.parameters, **edited.weights}.items() if n[:5] == "unet."
    }
    torch.save({"state_dict": {f"module.{n[5:]}": w for n, w in unet.items()}}, tmp_path / "a.pt")
    convert(str(tmp_path / "a.pt"), str(tmp_path / "converted.safetensors"))
    (tmp_path / "tiny.yaml").write_text(SUITE)
    saved = [
        {"checkpoint": {"path": str(tmp_path / name), "as": name.partition(".")[0]}}
        for name in ("saved", "converted.safetensors")
    ]
    suite = load_suite(tmp_path / "tiny.yaml").with_(methods=["none", "destroyed", UCE, *saved])
    plan = make_plan(suite, model.backbone.digest, folder=model.folder)
    store = Store(tmp_path / "store")
    assert not run_plan(plan, store, model, Watcher()).failed
    found = collect(plan, store)
    rows = found.trials
    columns = map(str, rows.columns)
    same = [c for c in columns if c not in OF_METHOD and "digest" not in c]
    of = {str(m): mine[same].reset_index(drop=True) for m, mine in rows.groupby("method")}
    assert len(of["uce[repo-2023]"]) >= 3  # each attack's
    for name in ("saved", "converted"):
        assert of[name].equals(of["uce[repo-2023]"])
    assert not of["saved"].equals(of["none"])
    notes = found.edits.set_index("method")["notes"].map(json.loads)
    assert notes["converted"]["holds"] == "326 of 326 of the unet"
    assert notes["saved"]["changed"] == notes["converted"]["changed"]
    assert notes["saved"]["changed"].startswith("cross-attention keys and values ")
