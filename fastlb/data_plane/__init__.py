"""What runs in a worker: accepts, parses, chooses a Target and moves bytes. Probes and publishes nothing."""
