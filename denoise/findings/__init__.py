"""What the table of an output folder says, in numbers and in pictures."""
