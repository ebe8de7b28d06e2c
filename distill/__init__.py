"""Stage two: train students from a cache of soft targets, without the teacher."""
