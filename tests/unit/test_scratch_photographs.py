"""Photographs for networks that learn from scratch: what is drawn, how it is shown, and that the networks take it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.photograph_folders import write_imagenette, write_tiny_imagenet, write_visual_wake_words
from PIL import Image

from lab.errors import ConfigError
from lab.workloads.options import read_sized
from lab.workloads.training import lls, tpsgd
from lab.workloads.training.local_learning import Variant, network_of
from lab.workloads.training.scratch_images import images_of

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_imagenette(root)
    write_tiny_imagenet(root)
    write_visual_wake_words(root)
    return root


@pytest.mark.parametrize(
    ("data", "classes", "side", "counts"),
    [("imagenette", 10, 128, (20, 10)), ("tiny-imagenet", 200, 64, (200, 20)), ("vww", 2, 96, (38, 4))],
)
def test_networks_take_what_they_are_shown(
    made: Path, monkeypatch: pytest.MonkeyPatch, data: str, classes: int, side: int, counts: tuple[int, int]
) -> None:
    monkeypatch.setenv("LAB_DATA", str(made))
    asked = Variant("paper", data, samples=5, evaluated=3, network="small-conv", channels=4, update="full")
    parts = images_of(asked).parts()
    assert (parts.samples.shape, parts.asked.shape) == ((5, 3, side, side), (3, 3, side, side))
    assert len(set(parts.labels.tolist())) > 1, "in a random order"
    every = images_of(Variant("paper", data, samples=1000, evaluated=1000))
    assert tuple(map(len, (every.parts().labels, every.parts().answers))) == counts, "no more than there are"
    assert torch.equal(every.parts().samples[:5], parts.samples)
    assert every.digest != images_of(asked).digest
    logits = network_of(asked, "periodic")(parts.samples[:2])
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, classes)


def test_colours_are_scaled_by_imagenets(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_DATA", str(made))
    parts = images_of(Variant("paper", "vww", samples=38, evaluated=4)).parts()
    path = made / "vw_coco2014_96" / "person" / "COCO_train2014_000000000007.jpg"
    own = torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), np.float32)) / 255
    expected = ((own - MEAN) / DEVIATION).permute(2, 0, 1)
    nearest = (parts.samples - expected).abs().amax((1, 2, 3))
    assert float(nearest.min()) < 1e-5
    assert int(parts.labels[int(nearest.argmin())]) == 1


def test_they_are_for_the_papers_size() -> None:
    assert read_sized("lls", lls.SIZES, "size=paper,data=vww").data == "vww"
    assert read_sized("tpsgd", tpsgd.SIZES, "size=paper,data=imagenette").data == "imagenette"
    with pytest.raises(ConfigError, match="data=vww is not allowed"):
        read_sized("lls", lls.SIZES, "data=vww")
