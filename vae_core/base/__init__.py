"""The base layer: a variational autoencoder over rows or windows of rows, and its linear siblings.

Decoding (BaseLayer) is integers and numpy; only fitting an autoencoder imports torch.
"""

from vae_core.base.columns import BaseColumn
from vae_core.base.layer import GAIN_UNIT, BaseLayer
from vae_core.base.measuring import Fitness, fitness
from vae_core.base.search import BaseFit, fit_base

__all__ = ["GAIN_UNIT", "BaseColumn", "BaseFit", "BaseLayer", "Fitness", "fit_base", "fitness"]
