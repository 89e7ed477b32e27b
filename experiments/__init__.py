"""Command-line programs: parse flags, call the library, report."""
