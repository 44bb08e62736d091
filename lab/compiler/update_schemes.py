"""Which parameters an update touches, and the schemes published for MCUNet, MobileNetV2 and ProxylessNAS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lab.compiler.channels import Channels
from lab.compiler.layer_costs import LayerCost, weighted
from lab.errors import ConfigError


@dataclass(frozen=True)
class UpdateScheme:
    """A sparse update: some weights, or some of their input channels, the last biases, the classifier.

    Layers are numbered in forward order over convolutions and linear layers without the classifier, which is the last
    one.

    Attributes:
        weights: number of a layer to the share of its input channels whose weights are updated.
        biases: that many last layers have their bias updated.
        classifier: whether the classifier is updated.
        patches: number of a layer to the side of the patches on which its gradients are computed (gradient filtering).
    """

    weights: Mapping[int, float] = field(default_factory=dict)
    biases: int = 0
    classifier: bool = True
    patches: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerUpdate:
    """What an update does to one convolution or linear layer.

    Attributes:
        layer: the layer.
        ratio: share of the input channels whose weights are updated.
        bias: whether the bias is.
        patch: side of the patches of the output map on which gradients are computed; 1 for every position.
    """

    layer: LayerCost
    ratio: float
    bias: bool
    patch: int = 1

    @property
    def weight_elements(self) -> int:
        """Elements of the weight that are updated."""
        return self.layer.share(self.layer.weight_elements, self.ratio)

    @property
    def bias_elements(self) -> int:
        """Elements of the bias that are updated."""
        return self.layer.bias_elements if self.bias else 0

    @property
    def parameters(self) -> int:
        """Elements of weight and bias that are updated."""
        return self.weight_elements + self.bias_elements

    @property
    def saved_elements(self) -> int:
        """Elements of the input that the weight gradient needs: of patches, their sums."""
        layer = self.layer
        if self.patch == 1:
            return layer.share(layer.input_elements, self.ratio)
        return layer.share(self._patches * layer.input_channels, self.ratio)

    @property
    def _patches(self) -> int:
        """Patches of the output map."""
        return self.layer.macs // self.layer.weight_elements // self.patch**2

    @property
    def gradient_macs(self) -> int:
        """MACs of the gradient of the whole weight, and of that of the input; on patches those of a 1×1 convolution.

        Source: Yang et al., "Efficient On-device Training via Gradient Filtering", 2023; sums and means not counted.
        """
        layer = self.layer
        if self.patch == 1:
            return layer.macs
        outputs = layer.output_elements * layer.weight_elements // layer.macs
        return self._patches * outputs * layer.input_channels // layer.groups

    @property
    def is_updated(self) -> bool:
        """Whether anything of the layer is."""
        return self.bias or self.weight_elements > 0


def apply(scheme: UpdateScheme, layers: Sequence[LayerCost]) -> tuple[LayerUpdate, ...]:
    """What a scheme does to each convolution and linear layer, in forward order.

    Raises:
        ConfigError: the scheme names a layer the network does not have, a share outside 0 to 1, or too many biases.
    """
    *trunk, classifier = weighted(layers)
    for number, ratio in scheme.weights.items():
        if not 0 <= number < len(trunk) or not 0 <= ratio <= 1:
            raise ConfigError(
                f"update of a share of {ratio} of layer {number}: the share must be in 0 to 1 and the layer in 0 to "
                f"{len(trunk) - 1}"
            )
    if not 0 <= scheme.biases <= len(trunk):
        raise ConfigError(f"update of the last {scheme.biases} biases: there are {len(trunk)} before the classifier")
    first_bias = len(trunk) - scheme.biases
    updates = [
        LayerUpdate(layer, scheme.weights.get(number, 0.0), number >= first_bias, scheme.patches.get(number, 1))
        for number, layer in enumerate(trunk)
    ]
    return (*updates, LayerUpdate(classifier, float(scheme.classifier), scheme.classifier))


def selection(scheme: UpdateScheme, layers: Sequence[LayerCost]) -> dict[str, Channels | None]:
    """What :func:`lab.compiler.compile` trains for a scheme: parameters, with the first channels of a share.

    Args:
        scheme: what is updated.
        layers: of the network with batch norm folded, whose biases have names.
    """
    chosen: dict[str, Channels | None] = {}
    for update in apply(scheme, layers):
        if update.weight_elements:
            chosen[f"{update.layer.name}.weight"] = Channels(inputs=update.ratio) if update.ratio < 1 else None
        if update.bias:
            chosen[f"{update.layer.name}.bias"] = None
    return chosen


def full_update(layers: Sequence[LayerCost]) -> UpdateScheme:
    """Every weight and bias."""
    return last_layers(layers, len(weighted(layers)) - 1)


def last_layers(layers: Sequence[LayerCost], count: int) -> UpdateScheme:
    """Weights and biases of the last ``count`` layers before the classifier, and the classifier."""
    trunk = len(weighted(layers)) - 1
    return UpdateScheme(dict.fromkeys(range(trunk - count, trunk), 1.0), biases=count)


def published(biases: int, layers: Sequence[int], ratios: Sequence[float]) -> UpdateScheme:
    """A row of the published tables."""
    return UpdateScheme(dict(zip(layers, ratios, strict=True)), biases=biases)


MCUNET_SCHEMES: Mapping[str, UpdateScheme] = {
    "49kb": published(20, (23, 24, 27, 30, 33, 39), (0, 0.25, 0.5, 0.5, 0, 0)),
    "74kb": published(21, (21, 23, 24, 26, 27, 30), (1, 0, 1, 0, 0.5, 1)),
    "99kb": published(22, (21, 24, 27, 30, 36, 39), (1, 1, 1, 1, 0.125, 0.25)),
    "124kb": published(24, (21, 24, 27, 30, 33, 39), (0.25, 1, 1, 1, 0.5, 0.5)),
    "148kb": published(23, (21, 24, 27, 30, 36, 39), (1, 1, 1, 1, 1, 0.5)),
}
"""Schemes for MCUNet-5fps by the memory they are named after. Source of these tables: Lin et al., "On-Device Training
Under 256KB Memory", 2022 (repository mit-han-lab/tiny-training, compilation/mcu_ir_gen.py)."""
MOBILENET_V2_SCHEMES: Mapping[str, UpdateScheme] = {
    "49kb": published(16, (36, 39, 40, 41, 42, 45, 48, 49), (1, 1, 0, 0.25, 0.125, 0.125, 0.125, 0.125)),
    "73kb": published(20, (32, 33, 36, 39, 41, 42, 45, 48), (0.125, 0.5, 0.5, 1, 0.25, 0.125, 0.125, 1)),
    "99kb": published(25, (27, 30, 33, 36, 39, 42, 45, 48), (1, 1, 1, 1, 1, 0.125, 0.5, 1)),
    "123kb": published(31, (27, 30, 33, 36, 39, 42, 45, 48), (1, 1, 1, 1, 1, 0.5, 1, 1)),
    "138kb": published(34, (27, 30, 33, 36, 39, 42, 45, 48), (1,) * 8),
}
"""Schemes for MobileNetV2-0.35."""
PROXYLESSNAS_SCHEMES: Mapping[str, UpdateScheme] = {
    "49kb": published(21, (39, 42, 44, 45, 50, 51, 54, 57), (0.25, 1, 0, 1, 0, 0.125, 0.25, 0.25)),
    "74kb": published(28, (33, 36, 39, 42, 45, 51, 54, 57), (0.5, 0.25, 1, 1, 1, 0.5, 0.25, 0.5)),
    "98kb": published(25, (36, 39, 42, 45, 48, 51, 54, 57), (1, 0.5, 1, 1, 0.25, 0.5, 1, 1)),
    "120kb": published(32, (36, 39, 42, 45, 48, 51, 54, 57), (1, 1, 1, 1, 0.5, 1, 1, 1)),
    "148kb": published(45, (36, 39, 42, 45, 48, 51, 54, 57), (1,) * 8),
}
"""Schemes for ProxylessNAS-0.3."""
