"""What the edge is given: its configuration, and what it knows of the contract."""
