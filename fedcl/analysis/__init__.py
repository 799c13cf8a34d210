"""Many runs compared: tables, tests and a report."""
