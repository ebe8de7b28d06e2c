"""Students cut from a teacher: some of its own layers, chosen where the teacher is."""
