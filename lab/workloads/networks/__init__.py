"""Networks that more than one workload uses. Imports torch: import it only where a network is built."""

from lab.workloads.networks.bert import Bert, small_bert
from lab.workloads.networks.blocks import Bottleneck, BottleneckNet, InvertedBottleneck
from lab.workloads.networks.digits_mb import digits_mb
from lab.workloads.networks.ds_cnn import DsCnn, Stem, keyword_ds_cnn
from lab.workloads.networks.evaluation import exported, folded, logits
from lab.workloads.networks.gru import GruCell, GruClassifier, gru_classifier
from lab.workloads.networks.imu_cnn import imu_cnn
from lab.workloads.networks.mcunet import mcunet_5fps
from lab.workloads.networks.mlp import mlp
from lab.workloads.networks.mobilenet_v2 import mobilenet_v2
from lab.workloads.networks.proxylessnas import proxylessnas_mobile, proxylessnas_w03
from lab.workloads.networks.resnet import ResNet, resnet8, resnet18, resnet101
from lab.workloads.networks.vit import VisionTransformer, small_vit
from lab.workloads.networks.wide_resnet import WideResNet
from lab.workloads.networks.zoo import ZOO, ZooEntry

__all__ = [
    "ZOO",
    "Bert",
    "Bottleneck",
    "BottleneckNet",
    "DsCnn",
    "GruCell",
    "GruClassifier",
    "InvertedBottleneck",
    "ResNet",
    "Stem",
    "VisionTransformer",
    "WideResNet",
    "ZooEntry",
    "digits_mb",
    "exported",
    "folded",
    "gru_classifier",
    "imu_cnn",
    "keyword_ds_cnn",
    "logits",
    "mcunet_5fps",
    "mlp",
    "mobilenet_v2",
    "proxylessnas_mobile",
    "proxylessnas_w03",
    "resnet8",
    "resnet18",
    "resnet101",
    "small_bert",
    "small_vit",
]
