"""Many runs from one cache: in turn, side by side, on a cluster; their table and costs."""
