"""Any DeepNets-1M network as data in one compiled function."""
