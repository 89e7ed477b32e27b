"""What each primitive does to the description of a value, by family.

Importing the package fills `tracing.table.TABLE`.
"""

from ppuda_jax.tracing.rules import calls as calls
from ppuda_jax.tracing.rules import choice as choice
from ppuda_jax.tracing.rules import convolution as convolution
from ppuda_jax.tracing.rules import elementwise as elementwise
from ppuda_jax.tracing.rules import joining as joining
from ppuda_jax.tracing.rules import lookup as lookup
from ppuda_jax.tracing.rules import movement as movement
from ppuda_jax.tracing.rules import outside as outside
from ppuda_jax.tracing.rules import products as products
from ppuda_jax.tracing.rules import reductions as reductions
from ppuda_jax.tracing.rules import references as references
