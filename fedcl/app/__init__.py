"""The ways in: simulation, deployment, the commands."""
