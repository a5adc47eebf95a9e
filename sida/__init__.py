"""SiDA: distill a diffusion model to one step, and prove the score."""

__version__ = "0.1.0"
