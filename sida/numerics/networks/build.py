"""Build a network from its architecture's description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sida.numerics.networks.dhariwal import DhariwalUNet
from sida.numerics.networks.edm2 import EDM2Precond, UNet
from sida.numerics.networks.precondition import Denoiser, EDMPrecond
from sida.numerics.networks.song import SongUNet

_SONG: dict[str, dict[str, Any]] = {
    "ddpmpp": {"embedding_type": "positional", "channel_mult_noise": 1, "resample_filter": (1, 1)},
    "ncsnpp": {
        "embedding_type": "fourier",
        "channel_mult_noise": 2,
        "resample_filter": (1, 3, 3, 1),
        "encoder_type": "residual",
    },
}


def build_network(network: Mapping[str, Any], dropout: float = 0.0) -> Denoiser:
    """Return a freshly initialized denoiser for a recipe's ``teacher.network`` section (as a mapping).

    Raises ValueError for an architecture that is not known.
    """
    fields = {name: value for name, value in network.items() if value is not None}
    architecture = fields.pop("architecture")
    fields |= {"img_resolution": fields.pop("resolution"), "img_channels": fields.pop("channels"), "dropout": dropout}
    logvar_channels = fields.pop("logvar_channels", None)
    if architecture in _SONG:
        return EDMPrecond(SongUNet(**fields, **_SONG[architecture]))
    if architecture == "adm":
        return EDMPrecond(DhariwalUNet(**fields))
    if architecture == "edm2":
        if fields.pop("augment_dim", 0):
            raise ValueError("architecture 'edm2' has no augmentation labels: augment_dim must be 0")
        return EDM2Precond(UNet(**fields), logvar_channels)
    raise ValueError(f"architecture {architecture!r} is not known")
