"""What one site does with torch, and the contracts that strategies and scenarios implement."""
