package config

import _ "embed"

//go:embed spillway.example.yaml
var example string

// Example is a configuration file with every key, its default and what it is
// for. Loading it gives Default.
func Example() string { return example }
