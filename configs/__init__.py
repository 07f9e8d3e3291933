"""What a user runs: each file gives the command and what to expect."""
