"""What runs at the server: rounds, exchanges, evaluation, and the state they lead to."""
