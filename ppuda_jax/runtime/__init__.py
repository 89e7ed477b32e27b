"""The process and its machine: processors, memory, compilation, logs.

Nothing here happens at import. What changes the process is a context manager that puts it back, or
says why it cannot.
"""
