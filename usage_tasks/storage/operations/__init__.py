"""Jobs, backlog, outbox and audit: tables that every context writes through these modules."""
