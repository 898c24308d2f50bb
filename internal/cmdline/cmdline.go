// Package cmdline is about the command line itself: manual pages, examples and completion, all from the words that --help has,
// so that they cannot say something else.
package cmdline
