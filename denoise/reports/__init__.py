"""What the table of a run says, in numbers, pictures and a page."""
