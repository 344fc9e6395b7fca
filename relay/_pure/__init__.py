"""Pure-Python twins of the compiled kernels: their executable specification."""
