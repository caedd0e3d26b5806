"""Features of a student and its teacher on the same counterfactual images: the penultimate units, kept as they are for projections such as t-SNE."""

from collections.abc import Mapping
from pathlib import Path

import torch

from analysis.files import create
from data.cue_batches import CounterfactualSet
from models.networks import Network


@torch.inference_mode()
def run(networks: Mapping[str, Network], sets: Mapping[str, CounterfactualSet], dataset: str, folder: Path) -> None:
    """Writes features.h5 into a folder: a group for each set with `label` (N,) and (N, U) float32 of each network by its name, of the set's chosen images."""
    with create(folder / "features.h5") as file:
        file.attrs["dataset"] = dataset
        for name, own in sets.items():
            file[f"{name}/label"] = own.scene.labels[own.chosen].cpu().numpy()
            for key, network in networks.items():
                units = torch.cat([network.activate(chunk).penultimate_nu.flatten(1) for chunk in own.fast()])
                file.create_dataset(f"{name}/{key}", data=units.float().cpu().numpy(), compression="gzip")
