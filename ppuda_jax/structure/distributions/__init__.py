"""Distributions on the simplex and the cube, in the manner of distrax."""

from ppuda_jax.structure.distributions.base import Distribution as Distribution
from ppuda_jax.structure.distributions.base import monte_carlo_kl as monte_carlo_kl
from ppuda_jax.structure.distributions.base import straight_through as straight_through
from ppuda_jax.structure.distributions.bernoulli import BinConcrete as BinConcrete
from ppuda_jax.structure.distributions.bernoulli import HardConcrete as HardConcrete
from ppuda_jax.structure.distributions.dirichlet import Dirichlet as Dirichlet
from ppuda_jax.structure.distributions.gumbel_softmax import GumbelSoftmax as GumbelSoftmax
from ppuda_jax.structure.distributions.logit_normal import LogitNormal as LogitNormal
from ppuda_jax.structure.distributions.stick_breaking import Kumaraswamy as Kumaraswamy
