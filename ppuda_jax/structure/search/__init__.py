"""Searches for structures on one loop."""

from ppuda_jax.structure.search.loop import SearchResult as SearchResult
from ppuda_jax.structure.search.loop import SearchSettings as SearchSettings
from ppuda_jax.structure.search.loop import search as search
from ppuda_jax.structure.search.problem import Problem as Problem
from ppuda_jax.structure.search.problem import classification as classification
from ppuda_jax.structure.search.problem import regression as regression
