"""What time does: cycles, drafts, collection, meter sums, errors told later."""
