"""Command-line programs: parse flags, call the library, report.

`python -m experiments` lists them. An installed package has them as `ppuda_jax.cli`, for the
script `ppuda-jax`, so those that are installed import each other relatively.
"""
