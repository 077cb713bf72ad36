"""The effects of time: cycles, drafts, collection, meter sums, errors reported later."""
