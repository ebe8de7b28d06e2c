"""Generated programs: confined where they run, tested where they cannot cheat."""
