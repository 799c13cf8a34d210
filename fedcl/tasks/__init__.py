"""What is learned from cases: how they are sampled, answered and scored; one file each."""
