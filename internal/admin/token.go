package admin

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"spillway/internal/datadir"
)

// TokenFile is the token's name in the data directory, when the configuration has none.
const TokenFile = "admin.token"

// Bounds on a token: nobody guesses 16 characters over HTTP, and a longer one than 256 fits no header comfortably.
const (
	minTokenLen = 16
	maxTokenLen = 256
)

// ReadToken reads a token file, and refuses one that others than its owner can read.
func ReadToken(file string) (string, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // O_NONBLOCK: a FIFO must not hang the start
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a file; remove it to have a new one made", file)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("%s is open to others (mode %04o); chmod 600 it, or remove it to have a new one made", file, mode)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxTokenLen+2))
	if err != nil {
		return "", err
	}
	token := string(bytes.TrimSpace(content))
	if err := checkToken(token); err != nil {
		return "", fmt.Errorf("%s: %w; remove it to have a new one made", file, err)
	}
	return token, nil
}

// loadToken reads file, or makes it, and reports which.
func loadToken(file string) (token string, made bool, err error) {
	token, err = ReadToken(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return token, false, err
	}
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails since Go 1.24
	token = hex.EncodeToString(random[:])
	return token, true, datadir.Replace(file, []byte(token+"\n"))
}

func checkToken(token string) error {
	if len(token) < minTokenLen || len(token) > maxTokenLen {
		return fmt.Errorf("got %d characters; must be %d to %d (openssl rand -hex 32)", len(token), minTokenLen, maxTokenLen)
	}
	for _, b := range []byte(token) {
		if b <= ' ' || b > '~' {
			return errors.New("has a character that no header can carry; must be printable ASCII without blanks")
		}
	}
	return nil
}
