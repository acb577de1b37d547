"""Names of published checkpoints to mmrev's: pure functions on state dicts, with torch alone."""
