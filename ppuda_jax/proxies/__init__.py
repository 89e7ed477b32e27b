"""What an untrained or a predicted network tells of the accuracy that training would give it."""
