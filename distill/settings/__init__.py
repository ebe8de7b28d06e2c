"""What a student is and how it is trained: shapes, recipes, grids. Imports nothing heavy."""
