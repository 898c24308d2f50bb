//go:build !race

package shedder

const raceDetector = false
