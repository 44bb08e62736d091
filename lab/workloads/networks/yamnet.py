"""YAMNet: MobileNet's body over patches of a recording's log-mel bands, for the 521 classes of AudioSet."""

from __future__ import annotations

from torch import nn

ROWS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Channels and stride of each depthwise-separable layer behind the first convolution, 32 channels of stride 2."""
STEM_CHANNELS = 32
CLASSES = 521
EPSILON = 1e-4
"""Of batch norm."""


def yamnet() -> nn.Sequential:
    """YAMNet for (n, 1, 96, 64): 14 layers, average over the map to 1,024 values, one linear layer.

    Batch norm has scales, which in the published weights are 1 throughout. Public source: D. Ellis and M. Plakal,
    research/audioset/yamnet in tensorflow/models; a MobileNet (Howard et al. 2017). Its strided convolutions have
    TensorFlow's padding: of an even side a zero behind and none in front.
    """
    made = nn.Sequential()
    made.add_module("layer1", _stage(1, STEM_CHANNELS, 2))
    inputs = STEM_CHANNELS
    for number, (channels, stride) in enumerate(ROWS, start=2):
        layer = nn.Sequential()
        layer.add_module("depthwise", _stage(inputs, inputs, stride, inputs))
        layer.add_module("pointwise", _stage(inputs, channels, kernel=1))
        made.add_module(f"layer{number}", layer)
        inputs = channels
    made.add_module("pool", nn.AdaptiveAvgPool2d(1))
    made.add_module("flatten", nn.Flatten())
    made.add_module("classifier", nn.Linear(inputs, CLASSES))
    return made


def embedding(network: nn.Sequential) -> nn.Sequential:
    """Its layers up to the average over the map: (n, 1, 96, 64) to (n, 1024), nowhere below zero."""
    return nn.Sequential(*(one for name, one in network.named_children() if name != "classifier"))


def _stage(inputs: int, outputs: int, stride: int = 1, groups: int = 1, kernel: int = 3) -> nn.Sequential:
    padding = kernel // 2 if stride == 1 else 0
    stage = nn.Sequential()
    if stride > 1:
        stage.add_module("pad", nn.ZeroPad2d((0, 1, 0, 1)))
    stage.add_module("conv", nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False))
    stage.add_module("norm", nn.BatchNorm2d(outputs, EPSILON))
    stage.add_module("relu", nn.ReLU())
    return stage
