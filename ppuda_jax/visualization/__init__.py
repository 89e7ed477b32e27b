"""Pictures: graphs, predicted filters, training runs. matplotlib is imported when one is drawn."""

from ppuda_jax.visualization.filters import draw_filters as draw_filters
from ppuda_jax.visualization.graphs import draw_graph as draw_graph
from ppuda_jax.visualization.runs import draw_run as draw_run
