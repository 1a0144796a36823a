package main

// Run is run, for specs.
var Run = run
