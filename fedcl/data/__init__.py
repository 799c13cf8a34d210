"""From files to cases: one reader for all layouts, which says what it leaves out or guesses."""
