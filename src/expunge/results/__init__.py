"""What an evaluation leaves: records, measures, curves."""
