package console

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/rogpeppe/go-internal/testscript"

	"spillway/internal/config"
)

// patience is far beyond what anything here takes on a busy machine.
const patience = 30 * time.Second

// The tests on a terminal run this program as spillway.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"spillway": func() { os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr)) },
	})
}

// run is spillway with no other command than ctl. It returns the exit code, as cmd/spillway does.
func run(args, environ []string, stdout, stderr io.Writer) int {
	var commands struct {
		Ctl Ctl `cmd:""`
	}
	parser, err := kong.New(&commands, kong.Name("spillway"))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "spillway: %v\n", err)
		return 2
	}
	err = parsed.Run(&Program{Src: config.Sources{Environ: environ}, Stdout: stdout, Stderr: stderr})
	if code := ExitCode(0); errors.As(err, &code) {
		return int(code)
	}
	if err != nil {
		fmt.Fprintf(stderr, "spillway: %v\n", err)
		return 1
	}
	return 0
}
