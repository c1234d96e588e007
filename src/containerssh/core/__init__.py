"""The contracts between the packages. Needs nothing but the standard library."""
