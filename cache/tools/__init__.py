"""What is done with caches: trials, checks, merging, extending, encoding anew, looking inside."""
