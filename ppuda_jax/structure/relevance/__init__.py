"""Which parts of a model the data need: automatic relevance determination and its relatives."""
