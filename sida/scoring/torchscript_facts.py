"""Facts about the published TorchScript detector, and where to get it. Imports nothing heavy."""

INCEPTION_ADDRESS = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
# k-diffusion (k_diffusion/evaluation.py) pins the same file at this digest.
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
PINNED = {INCEPTION_SHA256: "inception-2015-12-05"}


def where_to_get_it() -> str:
    """Return how to get the published file, for machines without internet too."""
    return (
        f"by hand: fetch {INCEPTION_ADDRESS} (sha256 {INCEPTION_SHA256}) on another machine and give its path in "
        f"evaluation.detector.address"
    )
