"""Networks driven from the host, one small compiled function per kind of step and shape."""
