"""Commands on reports of sessions: files, refused reports, zombies."""
