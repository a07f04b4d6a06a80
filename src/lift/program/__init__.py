"""The program that speaks v2 on services that speak only v1. See `main`."""
