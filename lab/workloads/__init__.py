"""The workloads: what the lab can run. Importing this package imports no workload and nothing heavy."""

from __future__ import annotations

import difflib
from importlib import import_module

from lab.errors import ConfigError
from lab.workloads.base import Workload

# One line per workload: id → module that defines WORKLOAD.
_REGISTRY = {
    "baffle": "lab.workloads.training.baffle",
    "cema": "lab.workloads.adaptation.cema",
    "digits-transfer": "lab.workloads.training.digits_transfer",
    "eco-tta": "lab.workloads.adaptation.eco_tta",
    "early-exit": "lab.workloads.uncertainty.early_exit",
    "gradient-filtering": "lab.workloads.training.gradient_filtering",
    "ear": "lab.workloads.continual.ear",
    "lean-tta": "lab.workloads.adaptation.lean_tta",
    "layer-recovery": "lab.workloads.security.layer_recovery",
    "lgvit": "lab.workloads.uncertainty.lgvit",
    "lifelearner": "lab.workloads.continual.lifelearner",
    "metacl-bench": "lab.workloads.continual.metacl_bench",
    "lls": "lab.workloads.training.lls",
    "od-tta": "lab.workloads.adaptation.od_tta",
    "pockengine": "lab.workloads.training.pockengine",
    "rep-net": "lab.workloads.training.rep_net",
    "roofline": "lab.workloads.training.roofline",
    "sparcl": "lab.workloads.continual.sparcl",
    "sparse-update": "lab.workloads.training.sparse_update",
    "spoken-digits": "lab.workloads.inference.spoken_digits",
    "tinytl": "lab.workloads.training.tinytl",
    "tinytrain": "lab.workloads.training.tinytrain",
    "tpsgd": "lab.workloads.training.tpsgd",
    "ur2m": "lab.workloads.uncertainty.ur2m",
    "yono": "lab.workloads.many_models.yono",
}
_MODEL_FILES = (".tflite", ".onnx")


def get(workload_id: str) -> Workload:
    """The workload of this id, or the one that runs the model file of this path (``.tflite``, ``.onnx``).

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if workload_id.endswith(_MODEL_FILES):
        model_file: Workload = import_module("lab.workloads.inference.model_file").ModelFile(workload_id)
        return model_file
    if workload_id not in _REGISTRY:
        near = difflib.get_close_matches(workload_id, _REGISTRY, n=1)
        raise ConfigError(
            f"there is no workload '{workload_id}'; there are: {', '.join(sorted(_REGISTRY))}, and model files "
            f"({', '.join(_MODEL_FILES)}) by path",
            hint=f"did you mean '{near[0]}'?" if near else "`lab workloads` lists them",
        )
    workload: Workload = import_module(_REGISTRY[workload_id]).WORKLOAD
    return workload


def all_workloads() -> tuple[Workload, ...]:
    """Every workload, in the order of ids."""
    return tuple(get(workload_id) for workload_id in sorted(_REGISTRY))
