"""Users, teams and members."""
