"""How close a student is to its teacher on text that no student has seen."""
