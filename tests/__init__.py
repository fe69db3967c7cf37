"""The tests of perdure; a package, so that all of them are type-checked together."""
